"""What every chunk store promises, whatever is below it."""

import threading
from pathlib import Path

import pytest

from cache_tiers.memory_store import MemoryStore
from cache_tiers.ssd.store import SsdConfig, SsdStore
from cache_tiers.store import ChunkStore, ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey
from tests.contract.store_faults import FaultyFiles, disk_bytes

CHUNK = 5000
LIMIT = 40 * CHUNK


def key(number: int) -> ChunkKey:
    return ChunkKey(number.to_bytes(32, "big") + b"grp0")


def content(number: int) -> bytes:
    return (number.to_bytes(4, "big") * CHUNK)[:CHUNK]


def put(store: ChunkStore, *numbers: int) -> list[WriteOutcome]:
    return store.put([key(n) for n in numbers], [memoryview(content(n)) for n in numbers])


def get(store: ChunkStore, *numbers: int) -> list[ReadOutcome]:
    """Asserts that whatever is OK is right."""
    arena = memoryview(bytearray(CHUNK * len(numbers)))
    slots = [arena[i * CHUNK : (i + 1) * CHUNK] for i in range(len(numbers))]
    outcomes = store.get([key(n) for n in numbers], slots)
    for number, slot, outcome in zip(numbers, slots, outcomes, strict=True):
        assert outcome is not ReadOutcome.OK or slot == content(number)
    return outcomes


class Promises:
    """Kept by every store, on a disk that fails as well."""

    @pytest.fixture
    def store(self, tmp_path: Path):
        raise NotImplementedError

    def test_empty(self, store: ChunkStore) -> None:
        assert get(store, 1) == [ReadOutcome.MISSING]
        assert not store.contains(key(1))
        assert store.get([], []) == []
        assert store.put([], []) == []
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
            store.put([key(1)], [])

    def test_closed(self, store: ChunkStore) -> None:
        put(store, 1)
        store.close()
        store.close()
        assert get(store, 1) == [ReadOutcome.MISSING]
        assert put(store, 2) == [WriteOutcome.REFUSED]
        assert not store.contains(key(1))
        assert store.delete([key(1)]) == 0
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

    def test_a_put_never_evicts_itself(self, store: ChunkStore) -> None:
        put(store, 1000)
        outcomes = put(store, 1000, *range(100))
        assert outcomes[0] is WriteOutcome.PRESENT
        assert WriteOutcome.REFUSED in outcomes
        for number, outcome in zip([1000, *range(100)], outcomes, strict=True):
            assert store.contains(key(number)) == (outcome is not WriteOutcome.REFUSED)
        assert sum(o is WriteOutcome.STORED for o in outcomes) > 10

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
    return SsdConfig(root / "store", **{**values, **changes})  # type: ignore[arg-type]


class TestMemoryStore(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        return MemoryStore(CHUNK, LIMIT)


class TestSsdStore(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        store = SsdStore.open(config(tmp_path), Clock())
        yield store
        store.close()
        assert disk_bytes(tmp_path / "store") <= LIMIT


class TestSsdStoreOneChunkASegment(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        store = SsdStore.open(config(tmp_path, segment_bytes=1), Clock())
        yield store
        store.close()
        assert disk_bytes(tmp_path / "store") <= LIMIT


class TestSsdStoreWithShortTransfers(SoundPromises):
    @pytest.fixture
    def store(self, tmp_path: Path):
        store = SsdStore.open(config(tmp_path), Clock(), files=FaultyFiles(short=0.5))
        yield store
        store.close()


FAULTS = [
    {"eio": 0.2},
    {"enospc": 0.3},
    {"flip": 0.3},
    {"short": 0.5, "eio": 0.05, "enospc": 0.05, "flip": 0.05},
]


class TestSsdStoreOnABadDisk(Promises):
    @pytest.fixture(params=FAULTS, ids=lambda faults: "+".join(faults))
    def store(self, tmp_path: Path, request: pytest.FixtureRequest):
        files = FaultyFiles()
        store = SsdStore.open(config(tmp_path), Clock(), files=files)
        for name, chance in request.param.items():
            setattr(files, name, chance)
        yield store
        store.close()
        assert disk_bytes(tmp_path / "store") <= LIMIT
