"""Verifying a store: what is good is counted, what is not is found, at a rate that is kept."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache_tiers.ssd.catalogue import Holding, holdings, read_journal
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import Files, OsFiles
from cache_tiers.ssd.frames import Mark, join
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.ssd.journal import MAGIC, VERSION, Header
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.segment import data_path
from cache_tiers.ssd.store import SsdStore
from cache_tiers.ssd.verify import Verified, verify
from cache_tiers.store import StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles

A, B = SessionKey("acme/a"), SessionKey("acme/b")
CHUNK = 3 * PAGE_BYTES
MASTER = bytes(range(32))
FAST = 1e12


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key of chunk %d" % number)


class Bench:
    """A store, and a look at its files."""

    def __init__(self, root: Path, master_key: str | None = "env:STORE_KEY") -> None:
        self.installation = Installation(root=root, bytes_limit=64 * 2**20, master_key=master_key)
        self.files = FaultyFiles()
        self.store = self.open()

    def open(self, fingerprint: str = "f1") -> SsdStore:
        return open_store(
            self.installation, fingerprint, CHUNK, environ={"STORE_KEY": MASTER.hex()}
        )

    def put(self, session: SessionKey, *numbers: int) -> None:
        chunks = [memoryview(bytes([number % 251]) * CHUNK) for number in numbers]
        outcomes = self.store.put([key(n) for n in numbers], chunks, session)
        assert set(outcomes) == {WriteOutcome.STORED}

    @property
    def holding(self) -> Holding:
        (holding,) = holdings(self.installation.root, self.files)
        return holding

    def sealer(self) -> Sealer:
        keyring = Keyring.open(self.installation.keyring, MASTER, self.files, read_only=True)
        return EncryptedSealer(keyring)

    def verify(self, **changes: object) -> Verified:
        arguments = {"holding": self.holding, "files": self.files, "open_sealer": self.sealer}
        return verify(**(arguments | {"pace": Pace(FAST)} | changes))  # type: ignore[arg-type]

    def journal(self, number: int = 1) -> Path:
        return self.holding.path / f"{number:010}.journal"

    def data(self, number: int = 1) -> Path:
        return data_path(self.holding.path, number)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "store")
    yield bench
    bench.store.close()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_everything_is_read_while_the_store_is_open(bench: Bench) -> None:
    bench.put(A, *range(10))
    bench.put(B, *range(10, 15))
    found = bench.verify()
    assert found == Verified(good=15, bytes=15 * CHUNK)
    assert found.sound


def test_a_store_without_encryption(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "store", master_key=None)
    bench.put(A, 1, 2)
    assert bench.verify(open_sealer=ClearSealer) == Verified(good=2, bytes=2 * CHUNK)
    # With the other kind of sealer nothing is believed, and nothing is called damaged.
    bench.store.close()
    keyring = Keyring.open(bench.installation.keyring, MASTER, bench.files)
    assert bench.verify(open_sealer=lambda: EncryptedSealer(keyring)) == Verified(locked=2)


@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK + 5])
def test_one_bit_is_found(bench: Bench, at: int) -> None:
    bench.put(A, 1, 2, 3)
    flip(bench.data(), at)
    found = bench.verify()
    assert (found.good, found.corrupt) == (2, 1)
    assert not found.sound


def test_chunks_of_destroyed_keys_are_no_damage(bench: Bench) -> None:
    bench.put(A, 1, 2)
    bench.put(B, 3)
    bench.store.shred(A)
    flip(bench.data(), 0)
    found = bench.verify()
    assert (found.good, found.locked, found.corrupt) == (1, 2, 0)
    assert found.sound


def test_chunks_kept_for_other_sessions_are_good(bench: Bench) -> None:
    bench.put(A, 1, 2)
    bench.store.shred(A, keep=[key(2)])
    assert (bench.verify().good, bench.verify().locked) == (1, 1)


def test_deleted_chunks_are_not_looked_at(bench: Bench) -> None:
    bench.put(A, 1, 2)
    bench.store.delete([key(1)])
    flip(bench.data(), 0)
    assert bench.verify() == Verified(good=1, bytes=CHUNK)


def test_data_that_was_cut_off_is_corrupt(bench: Bench) -> None:
    bench.put(A, 1, 2, 3)
    bench.store.close()
    with bench.data().open("r+b") as file:
        file.truncate(CHUNK + 100)
    assert (bench.verify().good, bench.verify().corrupt) == (1, 2)


def test_a_disk_that_fails_is_not_called_corrupt(bench: Bench) -> None:
    bench.put(A, 1, 2)

    class DataFails(FaultyFiles):
        def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
            if path.suffix == ".segment":
                raise OSError(errno.EIO, "broken")
            return super().open(path, writable=writable, direct=direct)

    bench.files = DataFails()
    found = bench.verify()
    assert (found.good, found.failed, found.corrupt) == (0, 2, 0)
    assert not found.sound


def test_without_direct_io_it_is_read_the_other_way(bench: Bench) -> None:
    bench.put(A, 1, 2)
    bench.files.broken["direct"] = errno.EINVAL
    assert bench.verify().good == 2


class _Removes(OsFiles):
    """Files that are gone when a certain one is opened."""

    def __init__(self, when: Callable[[Path], bool], gone: Callable[[], None]) -> None:
        self._when = when
        self._gone = gone

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        if self._when(path):
            self._gone()
        return super().open(path, writable=writable, direct=direct)


def test_a_segment_removed_meanwhile_is_passed_over(bench: Bench) -> None:
    bench.put(A, 1, 2)

    def remove() -> None:
        for path in (bench.journal(), bench.data()):
            path.unlink(missing_ok=True)

    holding = bench.holding
    for suffix in (".segment", ".journal"):
        files: Files = _Removes(lambda path, suffix=suffix: path.suffix == suffix, remove)
        assert bench.verify(holding=holding, files=files) == Verified()


def test_data_that_vanished_alone_is_a_fault(bench: Bench) -> None:
    bench.put(A, 1, 2)
    bench.data().unlink()
    assert bench.verify() == Verified(failed=2)


def test_keys_made_meanwhile_are_looked_up(bench: Bench) -> None:
    bench.put(A, 1)
    opened: list[Sealer] = []

    def open_sealer() -> Sealer:
        opened.append(bench.sealer())
        if len(opened) == 1:
            bench.put(B, 2)
        return opened[-1]

    assert bench.verify(open_sealer=open_sealer).good == 2
    assert len(opened) == 2


def test_progress_and_the_whole_agree(bench: Bench) -> None:
    bench.put(A, *range(700 * PAGE_BYTES // CHUNK))
    bench.put(B, *range(1000, 1000 + 2 * 1024 * PAGE_BYTES // CHUNK))
    seen: list[Verified] = []
    found = bench.verify(on_progress=seen.append)
    assert len(seen) > 1
    assert seen[-1] == found
    assert [one.good for one in seen] == sorted(one.good for one in seen)


# --- journals --------------------------------------------------------------------------------


def test_a_record_cut_short_is_no_damage(bench: Bench) -> None:
    bench.put(A, 1)
    first = bench.journal().stat().st_size
    bench.put(A, 2)
    bench.store.close()
    whole = bench.journal().read_bytes()
    for size in range(first + 1, len(whole)):
        bench.journal().write_bytes(whole[:size])
        listing = read_journal(bench.holding.path, 1, bench.files)
        assert listing is not None
        assert (len(listing.puts), listing.damaged) == (1, False)


def test_damage_inside_a_journal_is_found(bench: Bench) -> None:
    for number in range(6):
        bench.put(A, number)
    bench.store.close()
    whole = bench.journal().read_bytes()
    listing = read_journal(bench.holding.path, 1, bench.files)
    assert listing is not None
    assert len(listing.puts) == 6
    record = (len(whole) - 100) // 6
    for at in range(0, len(whole) - 2 * record - 20, 3):
        flip(bench.journal(), at)
        found = bench.verify()
        assert found.damaged_journals == 1, at
        assert not found.sound
        bench.journal().write_bytes(whole)
    assert bench.verify().sound


def test_a_journal_of_a_newer_version_is_not_guessed_at(bench: Bench) -> None:
    bench.put(A, 1)
    newer = Header("f1", 1, CHUNK, bytes(16)).encode(VERSION + 1)
    frame, _ = join([newer], Mark(len(MAGIC), 0))
    bench.journal().write_bytes(MAGIC + frame)
    with pytest.raises(StoreUnusable, match="newer"):
        bench.verify()


# --- holdings --------------------------------------------------------------------------------


def test_nothing_stored_is_nothing_found(tmp_path: Path) -> None:
    assert holdings(tmp_path / "never", OsFiles()) == []


def test_each_fingerprint_is_a_holding(bench: Bench, tmp_path: Path) -> None:
    bench.put(A, 1, 2)
    bench.store.close()
    root = bench.installation.root
    (root / "photos").mkdir()
    (root / "photos" / "cat.jpg").write_bytes(b"cat")
    bench.open("f2").close()
    found = {holding.fingerprint: holding for holding in holdings(root, OsFiles())}
    assert set(found) == {"f1", "f2"}
    assert found["f1"].chunk_bytes == CHUNK
    assert found["f1"].segments == (1,)
    assert found["f1"].data_bytes == 2 * CHUNK
    assert found["f1"].bytes > found["f1"].data_bytes
    assert (found["f2"].chunk_bytes, found["f2"].segments) == (None, ())


def test_the_one_used_last_comes_first(bench: Bench) -> None:
    bench.put(A, 1)
    bench.store.close()
    other = bench.open("f0")
    other.put([key(5)], [memoryview(bytes(CHUNK))], A)
    other.close()
    root, files = bench.installation.root, OsFiles()
    for newer, older in (("f0", "f1"), ("f1", "f0")):
        for path in (root / newer).iterdir():
            files.set_modified(path, 2e9)
        for path in (root / older).iterdir():
            files.set_modified(path, 1e9)
        assert [h.fingerprint for h in holdings(root, files)] == [newer, older]


# --- pace ------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 50.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds


def test_the_rate_is_kept(bench: Bench) -> None:
    bench.put(A, *range(2000))
    clock = Clock()
    found = bench.verify(pace=Pace(2**20, clock, clock.sleep))
    assert clock.slept == pytest.approx(found.bytes / 2**20)
