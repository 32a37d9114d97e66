"""What every chunk store promises, whatever is below it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.memory_store import MemoryStore
from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import Files, OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ChunkStore, ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing
from tests.contract.store_faults import FaultyFiles, disk_bytes

CHUNK = 8192
LIMIT = 80 * CHUNK
ALICE, BOB = SessionKey("acme/alice"), SessionKey("acme/bob")
MASTER = bytes(range(32))


def key(number: int) -> ChunkKey:
    return ChunkKey(number.to_bytes(32, "big") + b"grp0")


def content(number: int) -> bytes:
    return (number.to_bytes(4, "big") * CHUNK)[:CHUNK]


def put(store: ChunkStore, *numbers: int, owner: SessionKey = ALICE) -> list[WriteOutcome]:
    return store.put([key(n) for n in numbers], [memoryview(content(n)) for n in numbers], owner)


def get(store: ChunkStore, *numbers: int) -> list[ReadOutcome]:
    """Asserts that whatever is OK is right."""
    arena = aligned(CHUNK * max(1, len(numbers)))
    slots = [arena[i * CHUNK : (i + 1) * CHUNK] for i in range(len(numbers))]
    outcomes = store.get([key(n) for n in numbers], slots)
    for number, slot, outcome in zip(numbers, slots, outcomes, strict=True):
        assert outcome is not ReadOutcome.OK or slot == content(number)
    return outcomes


def expect(store: ChunkStore, *stakes: Stake) -> None:
    """Every chunk costs a second."""
    store.expect(lambda: Expectation(stakes, Price(1.0, 0.0), 1_000_000.0))


def stake(session: str, *numbers: int, rate: float = 0.01, above: int = 0) -> Stake:
    return Stake(SessionKey(session), tuple(key(n) for n in numbers), above, rate)


def put_until_some_go(store: ChunkStore, *watched: int, stakes: Sequence[Stake]) -> None:
    """Chunks that are worth more than any, until one of those watched is gone."""
    for number in range(1000, 1060):
        wanted = stake("t/wanted", *range(1000, number + 1), rate=100.0)
        expect(store, *stakes, wanted)
        put(store, number)
        if not all(store.contains(key(n)) for n in watched):
            return
    raise AssertionError("nothing went")


class Promises:
    """Kept by every store, on a disk that fails as well."""

    @pytest.fixture
    def store(self, tmp_path: Path):
        raise NotImplementedError

    def test_empty(self, store: ChunkStore) -> None:
        assert get(store, 1) == [ReadOutcome.MISSING]
        assert not store.contains(key(1))
        assert store.get([], []) == []
        assert store.put([], [], ALICE) == []
        assert store.chunk_bytes == CHUNK

    def test_never_a_wrong_byte_and_one_outcome_a_key(self, store: ChunkStore) -> None:
        for start in range(0, 120, 7):
            numbers = range(start, start + 7)
            assert len(put(store, *numbers)) == 7
            assert len(get(store, *range(start + 7))) == start + 7
            assert store.stats().bytes_used <= LIMIT

    def test_deleted_is_gone(self, store: ChunkStore) -> None:
        put(store, 1, 2)
        held = sum(store.contains(key(n)) for n in (1, 2, 3))
        assert store.delete([key(1), key(2), key(3)]) == held
        assert not store.contains(key(1))
        assert get(store, 1, 2) == [ReadOutcome.MISSING] * 2

    def test_buffers_of_a_wrong_size_are_a_bug_of_the_caller(self, store: ChunkStore) -> None:
        with pytest.raises(ValueError):
            store.get([key(1)], [memoryview(bytearray(CHUNK - 1))])
        with pytest.raises(ValueError):
            store.put([key(1)], [], ALICE)

    def test_closed(self, store: ChunkStore) -> None:
        put(store, 1)
        store.close()
        store.close()
        assert get(store, 1) == [ReadOutcome.MISSING]
        assert put(store, 2) == [WriteOutcome.REFUSED]
        assert not store.contains(key(1))
        assert store.delete([key(1)]) == 0
        with pytest.raises(OSError):
            store.shred(ALICE)
        store.flush()

    def test_many_threads(self, store: ChunkStore) -> None:
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for i in range(25):
                    numbers = [(seed * 13 + i * 5 + j) % 50 for j in range(4)]
                    put(store, *numbers)
                    get(store, *numbers)
                    store.delete([key(numbers[0])])
                    assert store.stats().bytes_used <= LIMIT
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not errors


class SoundPromises(Promises):
    """Kept as long as the medium does its work."""

    def test_round_trip(self, store: ChunkStore) -> None:
        assert put(store, 1, 2, 3) == [WriteOutcome.STORED] * 3
        assert all(store.contains(key(n)) for n in (1, 2, 3))
        assert get(store, 3, 9, 1, 2, 1) == [
            ReadOutcome.OK,
            ReadOutcome.MISSING,
            ReadOutcome.OK,
            ReadOutcome.OK,
            ReadOutcome.OK,
        ]
        stats = store.stats()
        assert (stats.chunks, stats.healthy) == (3, True)
        assert stats.bytes_written == 3 * CHUNK
        assert stats.bytes_read == 4 * CHUNK
        assert 3 * CHUNK <= stats.bytes_used <= stats.bytes_limit == LIMIT

    def test_nothing_is_written_twice(self, store: ChunkStore) -> None:
        assert put(store, 1, 1) == [WriteOutcome.STORED, WriteOutcome.PRESENT]
        assert put(store, 1, 2) == [WriteOutcome.PRESENT, WriteOutcome.STORED]
        assert store.stats().bytes_written == 2 * CHUNK

    def test_least_recently_used_goes_first(self, store: ChunkStore) -> None:
        put(store, 0)
        for number in range(1, 100):
            put(store, number)
            assert get(store, 0) == [ReadOutcome.OK]
        assert store.stats().evicted_chunks > 0
        assert not store.contains(key(10))
        assert store.contains(key(99))

    def test_what_is_superseded_goes_first(self, store: ChunkStore) -> None:
        put(store, *range(10))
        put(store, *range(100, 130))
        store.rank([key(n) for n in range(100, 130)], Standing.SUPERSEDED)
        number = 200
        while not store.stats().evicted_chunks:
            put(store, number)
            number += 1
        assert all(store.contains(key(n)) for n in range(10))
        assert not all(store.contains(key(n)) for n in range(100, 130))
        assert all(store.contains(key(n)) for n in range(200, number))

    def test_what_is_wanted_again_goes_in_its_turn(self, store: ChunkStore) -> None:
        put(store, *range(100, 110))
        put(store, *range(10))
        some = [key(n) for n in range(10)]
        store.rank(some, Standing.SUPERSEDED)
        store.rank(some, Standing.ORDINARY)
        number = 200
        while not store.stats().evicted_chunks:
            put(store, number)
            number += 1
        assert not all(store.contains(key(n)) for n in range(100, 110))

    def test_what_is_worth_the_least_goes_first(self, store: ChunkStore) -> None:
        """Though it was used last."""
        put(store, *range(20))
        put(store, *range(100, 120))
        stakes = [stake("t/a", *range(20), rate=5.0), stake("t/b", *range(100, 120), rate=0.0)]
        put_until_some_go(store, *range(20), *range(100, 120), stakes=stakes)
        assert all(store.contains(key(n)) for n in range(20))

    def test_what_several_would_miss_is_worth_more(self, store: ChunkStore) -> None:
        put(store, *range(20))
        put(store, *range(100, 120))
        stakes = [stake(f"t/{n}", *range(20), rate=2.0) for n in range(3)]
        stakes.append(stake("t/x", *range(100, 120), rate=4.0))
        put_until_some_go(store, *range(20), *range(100, 120), stakes=stakes)
        assert all(store.contains(key(n)) for n in range(20))

    def test_of_whom_nothing_is_known_is_not_worthless(self, store: ChunkStore) -> None:
        put(store, *range(20))
        put(store, *range(100, 120))
        stakes = [stake("t/b", *range(100, 120), rate=1e-9)]
        put_until_some_go(store, *range(20), *range(100, 120), stakes=stakes)
        assert all(store.contains(key(n)) for n in range(20))

    def test_what_is_behind_a_hole_goes_first(self, store: ChunkStore) -> None:
        put(store, *range(200, 220))
        put(store, *range(20))
        store.delete([key(0)])
        stakes = [stake("t/a", *range(20), rate=5.0), stake("t/b", *range(200, 220))]
        watched = (*range(200, 220), *range(1, 20))
        put_until_some_go(store, *watched, stakes=stakes)
        assert all(store.contains(key(n)) for n in range(200, 220))
        assert store.torn == (SessionKey("t/a"),)

    def test_a_hole_that_is_filled_again_makes_no_difference(self, store: ChunkStore) -> None:
        put(store, *range(200, 220))
        put(store, *range(20))
        stakes = [stake("t/a", *range(20)), stake("t/b", *range(200, 220))]
        store.delete([key(0)])
        expect(store, *stakes)
        put(store, 0)
        watched = (*range(200, 220), *range(20))
        put_until_some_go(store, *watched, stakes=stakes)
        assert all(store.contains(key(n)) for n in range(20))
        assert store.torn == ()

    def test_nor_does_one_whose_chunks_are_above(self, store: ChunkStore) -> None:
        put(store, *range(200, 220))
        put(store, *range(20))
        store.delete([key(0)])
        stakes = [stake("t/a", *range(20), above=1), stake("t/b", *range(200, 220))]
        watched = (*range(200, 220), *range(1, 20))
        put_until_some_go(store, *watched, stakes=stakes)
        assert all(store.contains(key(n)) for n in range(1, 20))

    def test_no_end_is_left_without_its_beginning(self, store: ChunkStore) -> None:
        chains = [range(start, start + 20) for start in range(0, 100, 20)]
        for number, chain in enumerate(chains):
            stakes = [stake(f"t/{n}", *chain, rate=9.0 - n) for n, chain in enumerate(chains)]
            expect(store, *stakes[:number])
            put(store, *chain)
        gone = store.stats().evicted_chunks
        assert gone > 0
        behind = 0
        for chain in chains:
            held = [store.contains(key(n)) for n in chain]
            behind += sum(held[held.index(False) :]) if False in held else 0
        # What goes with one eviction may strand as much, which is then the next to go.
        assert behind <= min(gone, 10)

    def test_leases_outlast_what_is_worth_more(self, store: ChunkStore) -> None:
        put(store, *range(10))
        store.rank([key(n) for n in range(10)], Standing.PINNED)
        put(store, *range(100, 120))
        stakes = [stake("t/a", *range(10), rate=0.0), stake("t/b", *range(100, 120), rate=9.0)]
        put_until_some_go(store, *range(100, 120), *range(10), stakes=stakes)
        assert all(store.contains(key(n)) for n in range(10))
        assert store.take_evicted_pins() == []

    def test_what_is_expected_changes_nothing_of_what_is_there(self, store: ChunkStore) -> None:
        put(store, 1, 2, 3)
        expect(store, stake("t/a", 1, 2, 3, 4, rate=0.0), stake("t/b", 9))
        assert get(store, 1, 2, 3) == [ReadOutcome.OK] * 3
        assert store.stats().evicted_chunks == 0

    def test_what_is_pinned_goes_last(self, store: ChunkStore) -> None:
        put(store, *range(10))
        store.rank([key(n) for n in range(10)], Standing.PINNED)
        for number in range(200, 400):
            put(store, number)
        assert store.stats().evicted_chunks > 100
        assert all(store.contains(key(n)) for n in range(10))
        assert get(store, *range(10)) == [ReadOutcome.OK] * 10
        assert store.take_evicted_pins() == []
        store.rank([key(n) for n in range(10)], Standing.ORDINARY)
        for number in range(400, 600):
            put(store, number)
        assert not any(store.contains(key(n)) for n in range(10))

    def test_pins_are_broken_when_nothing_else_is_left(self, store: ChunkStore) -> None:
        told: list[ChunkKey] = []
        stored: list[ChunkKey] = []
        for number in range(200):
            if put(store, number) == [WriteOutcome.STORED]:
                stored.append(key(number))
            store.rank([key(number)], Standing.PINNED)
            told += store.take_evicted_pins()
        assert len(stored) > 100
        assert sorted(told) == [name for name in stored if not store.contains(name)]

    def test_a_put_never_evicts_itself(self, store: ChunkStore) -> None:
        put(store, 1000)
        outcomes = put(store, 1000, *range(100))
        assert outcomes[0] is WriteOutcome.PRESENT
        assert WriteOutcome.REFUSED in outcomes
        for number, outcome in zip([1000, *range(100)], outcomes, strict=True):
            assert store.contains(key(number)) == (outcome is not WriteOutcome.REFUSED)
        assert sum(o is WriteOutcome.STORED for o in outcomes) > 10

    def test_a_read_that_is_not_waited_for(self, store: ChunkStore) -> None:
        put(store, 1, 2)
        views = [memoryview(bytearray(CHUNK)) for _ in range(3)]
        reading = store.read([key(2), key(7), key(1)], views, 60.0)
        while (outcomes := reading.outcomes()) is None:
            pass
        assert outcomes == [ReadOutcome.OK, ReadOutcome.MISSING, ReadOutcome.OK]
        assert reading.released
        assert (views[0], views[2]) == (content(2), content(1))

    def test_shredded_is_gone_but_what_others_hold(self, store: ChunkStore) -> None:
        put(store, 1, 2, 3)
        put(store, 4, owner=BOB)
        store.shred(ALICE, keep=[key(1), key(4)])
        store.delete([key(2), key(3)])
        assert get(store, 1, 2, 3, 4) == [
            ReadOutcome.OK,
            ReadOutcome.MISSING,
            ReadOutcome.MISSING,
            ReadOutcome.OK,
        ]
        assert put(store, 2) == [WriteOutcome.STORED]
        assert get(store, 2) == [ReadOutcome.OK]
        store.shred(ALICE)
        store.delete([key(2)])
        assert not store.contains(key(2))

    def test_deleted_may_come_back(self, store: ChunkStore) -> None:
        put(store, 1)
        store.delete([key(1)])
        assert put(store, 1) == [WriteOutcome.STORED]
        assert get(store, 1) == [ReadOutcome.OK]


class Clock:
    """A second a reading."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def config(root: Path, **changes: object) -> SsdConfig:
    values: dict[str, object] = {"fingerprint": "f1", "chunk_bytes": CHUNK, "bytes_limit": LIMIT}
    return SsdConfig(root=root / "store", **{**values, **changes})  # type: ignore[arg-type]


class TestMemoryStore(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        return MemoryStore(CHUNK, LIMIT)


def encrypted(root: Path, files: Files | None = None) -> EncryptedSealer:
    files = files or OsFiles()
    files.make_folder(root / "store")
    return EncryptedSealer(Keyring.open(root / "store" / "keys", MASTER, files))


VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "one chunk a segment": {"segment_bytes": 1},
    "compressed": {"compress": True},
    "snapshots": {"snapshot_after": 1},
}


class TestSsdStore(SoundPromises):
    @pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
    def store(self, tmp_path: Path, request: pytest.FixtureRequest):
        store = SsdStore.open(
            config(tmp_path, **request.param), Clock(), make_sealer=lambda: encrypted(tmp_path)
        )
        yield store
        store.close()
        assert disk_bytes(tmp_path / "store") <= LIMIT


class TestSsdStoreInTheClear(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        store = SsdStore.open(config(tmp_path), Clock())
        yield store
        store.close()
        assert disk_bytes(tmp_path / "store") <= LIMIT


class TestSsdStoreWithShortTransfers(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        files = FaultyFiles(short=0.5)
        store = SsdStore.open(
            config(tmp_path), Clock(), files=files, make_sealer=lambda: encrypted(tmp_path, files)
        )
        yield store
        store.close()


FAULTS = [
    {"eio": 0.2},
    {"enospc": 0.3},
    {"flip": 0.3},
    {"short": 0.5, "eio": 0.05, "enospc": 0.05, "flip": 0.05},
    {"anywhere": 0.1},
]


class TestSsdStoreOnABadDisk(Promises):
    @pytest.fixture(params=FAULTS, ids=lambda faults: "+".join(faults))
    def store(self, tmp_path: Path, request: pytest.FixtureRequest):
        yield from faulty_store(tmp_path, request.param)


class TestSsdStoreThatFailsAnywhere(Promises):
    @pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
    def store(self, tmp_path: Path, request: pytest.FixtureRequest):
        yield from faulty_store(tmp_path, {"anywhere": 0.03, "flip": 0.01}, **request.param)

    def test_shredded_is_gone_or_says_so(self, store: ChunkStore) -> None:
        for number in range(0, 60, 3):
            put(store, number, number + 1, number + 2)
            try:
                store.shred(ALICE, keep=[key(number)])
            except OSError:
                continue
            assert get(store, number + 1, number + 2) == [ReadOutcome.MISSING] * 2


def faulty_store(root: Path, faults: Mapping[str, float], **settings: object) -> Iterator[SsdStore]:
    """Sound while it is opened."""
    files = FaultyFiles()
    store = SsdStore.open(
        config(root, **settings), Clock(), files=files, make_sealer=lambda: encrypted(root, files)
    )
    for name, chance in faults.items():
        setattr(files, name, chance)
    yield store
    store.close()
    assert disk_bytes(root / "store") <= LIMIT
