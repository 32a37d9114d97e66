"""The SSD store on a medium that is tampered with, fails, vanishes or is shared."""

import errno
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache_tiers.ssd import journal
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles, disk_bytes

OWNER = SessionKey("acme/alice")
CHUNK = 4096
LIMIT = 100 * CHUNK
MISSING, OK, CORRUPT = ReadOutcome.MISSING, ReadOutcome.OK, ReadOutcome.CORRUPT
STORED, REFUSED = WriteOutcome.STORED, WriteOutcome.REFUSED


def key(number: int) -> ChunkKey:
    return ChunkKey(b"k%d" % number)


def content(number: int) -> bytes:
    return bytes([number % 251]) * CHUNK


class Bench:
    """A store, its disk and its clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = FaultyFiles()
        self.now = 1e9
        self.store = self.open()

    def open(self, **changes: object) -> SsdStore:
        values: dict[str, object] = {
            "root": self.root,
            "fingerprint": "f1",
            "chunk_bytes": CHUNK,
            "bytes_limit": LIMIT,
            **changes,
        }
        return SsdStore.open(SsdConfig(**values), self.clock, files=self.files)  # type: ignore[arg-type]

    def clock(self) -> float:
        self.now += 1
        return self.now

    def reopen(self, **changes: object) -> None:
        self.store.close()
        self.store = self.open(**changes)

    def put(self, *numbers: int) -> list[WriteOutcome]:
        views = [memoryview(content(n)) for n in numbers]
        return self.store.put([key(n) for n in numbers], views, OWNER)

    def get(self, *numbers: int) -> list[ReadOutcome]:
        views = [memoryview(bytearray(CHUNK)) for _ in numbers]
        outcomes = self.store.get([key(n) for n in numbers], views)
        for number, view, outcome in zip(numbers, views, outcomes, strict=True):
            assert outcome is not OK or view == content(number)
        return outcomes

    def file(self, suffix: str, number: int = 1) -> Path:
        return self.root / "f1" / f"{number:010}.{suffix}"


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path / "root")
    yield bench
    bench.files.broken.clear()
    bench.store.close()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_survives_a_restart(bench: Bench) -> None:
    bench.put(1, 2, 3)
    bench.store.delete([key(2)])
    bench.reopen()
    assert bench.get(1, 2, 3) == [OK, MISSING, OK]
    assert bench.put(4) == [STORED]
    assert len(list(bench.root.glob("f1/*.segment"))) == 1


def test_neighbours_are_read_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(*range(8))
    sizes = []
    read = bench.files.read
    monkeypatch.setattr(
        bench.files, "read", lambda f, into, at: sizes.append(len(into)) or read(f, into, at)
    )
    assert bench.get(3, 2, 1, 7, 6) == [OK] * 5
    assert sorted(sizes) == [2, 3]


def test_private_to_the_owner(bench: Bench) -> None:
    bench.put(1)
    for path in [bench.root, *bench.root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_a_flipped_bit_is_corrupt_once_then_missing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put(1, 2, 3)
    flip(bench.file("segment"), CHUNK + 7)
    assert bench.get(1, 2, 3) == [OK, CORRUPT, OK]
    assert not bench.store.contains(key(2))
    assert bench.get(2) == [MISSING]
    assert bench.store.stats().corrupt_chunks == 1
    assert bench.put(2) == [STORED]
    bench.reopen()
    assert bench.get(1, 2, 3) == [OK, OK, OK]
    assert len(caplog.records) == 1


def test_a_truncated_segment(bench: Bench) -> None:
    bench.put(1, 2, 3)
    with bench.file("segment").open("r+b") as file:
        file.truncate(CHUNK + 10)
    assert bench.get(1, 2, 3) == [OK, CORRUPT, CORRUPT]
    bench.reopen()
    assert bench.get(1, 2, 3) == [OK, MISSING, MISSING]
    assert bench.put(2) == [STORED]
    assert bench.get(1, 2) == [OK, OK]


@pytest.mark.parametrize("suffix", ["segment", "journal"])
def test_a_missing_file(bench: Bench, suffix: str) -> None:
    bench.put(1, 2)
    bench.file(suffix).unlink()
    bench.reopen()
    assert bench.get(1) == [MISSING]
    assert bench.put(1) == [STORED]
    bench.reopen()
    assert bench.get(1) == [OK]


def test_a_segment_that_vanishes_while_running(bench: Bench) -> None:
    bench.put(1, 2)
    bench.file("segment").unlink()
    assert bench.get(1, 2) == [MISSING, MISSING]
    assert not bench.store.contains(key(1))
    assert bench.put(1) == [STORED]
    assert bench.get(1) == [OK]


def test_a_torn_journal_keeps_what_is_before(bench: Bench) -> None:
    bench.put(1)
    bench.put(2)
    bench.store.close()
    path = bench.file("journal")
    path.write_bytes(path.read_bytes()[:-3])
    bench.store = bench.open()
    assert bench.get(1, 2) == [OK, MISSING]
    assert bench.put(2) == [STORED]
    bench.reopen()
    assert bench.get(1, 2) == [OK, OK]


def test_a_journal_cut_short_while_running_takes_no_more(bench: Bench) -> None:
    bench.put(1, 2)
    with bench.file("journal").open("r+b") as file:
        file.truncate(60)
    assert bench.put(3) == [REFUSED]
    assert bench.put(3) == [STORED]
    bench.store.delete([key(1)])
    bench.reopen()
    assert bench.get(1, 2, 3) == [MISSING, MISSING, OK]


@pytest.mark.parametrize("garbage", [b"", b"\0" * 5000, b"VALETSEG" + b"\xff" * 99, b"x" * 77])
def test_garbage_is_no_chunk_and_the_first_to_go(bench: Bench, garbage: bytes) -> None:
    bench.put(1)
    bench.file("journal").write_bytes(garbage)
    bench.file("segment", 7).write_bytes(b"y" * 100_000)
    bench.reopen()
    assert bench.get(1) == [MISSING]
    assert bench.store.stats().bytes_used > 100_000
    for number in range(200):
        assert bench.put(number) == [STORED]
        assert disk_bytes(bench.root) <= LIMIT
    assert not bench.file("segment", 7).exists()


def test_another_fingerprints_journal_is_not_ours(bench: Bench) -> None:
    bench.put(1)
    bench.reopen(fingerprint="f2")
    assert bench.get(1) == [MISSING]
    bench.store.close()
    shutil.rmtree(bench.root / "f2")
    shutil.copytree(bench.root / "f1", bench.root / "f2")
    bench.store = bench.open(fingerprint="f2")
    assert bench.get(1) == [MISSING]


def test_another_chunk_size_is_not_ours(bench: Bench) -> None:
    bench.put(1)
    bench.reopen(chunk_bytes=CHUNK // 2)
    assert not bench.store.contains(key(1))


def test_a_newer_format_is_refused(bench: Bench) -> None:
    bench.put(1)
    bench.store.close()
    header = journal.Header("f1", 1, CHUNK, bytes(16))
    body = header.encode(journal.VERSION + 1)
    frame, _ = journal.join([body], journal.Mark(len(journal.MAGIC), 0))
    bench.file("journal").write_bytes(journal.MAGIC + frame)
    with pytest.raises(StoreUnusable, match="format 3"):
        bench.open()


def test_old_fingerprints_go_first_and_whole(bench: Bench) -> None:
    bench.put(*range(20))
    bench.reopen(fingerprint="f2")
    bench.put(*range(20))
    bench.reopen(fingerprint="f3")
    assert bench.put(*range(30)) == [STORED] * 30
    assert bench.store.stats().bytes_used == pytest.approx(70 * CHUNK, rel=0.4)
    assert bench.put(*range(30, 60)) == [STORED] * 30
    assert not (bench.root / "f1").exists()
    assert (bench.root / "f2").exists()
    assert bench.put(*range(60, 75)) == [STORED] * 15
    assert not (bench.root / "f2").exists()
    assert bench.get(*range(75)) == [OK] * 75
    assert disk_bytes(bench.root) <= LIMIT


def test_foreign_files_count_and_stay(bench: Bench) -> None:
    bench.store.close()
    (bench.root / "f1" / "notes.txt").write_bytes(b"n" * 100_000)
    (bench.root / "photos").mkdir()
    (bench.root / "photos" / "cat").write_bytes(b"c" * 100_000)
    bench.store = bench.open()
    for number in range(100):
        assert bench.put(number) == [STORED]
        assert disk_bytes(bench.root) <= LIMIT
    assert (bench.root / "photos" / "cat").exists()
    assert (bench.root / "f1" / "notes.txt").exists()
    with pytest.raises(StoreUnusable, match="in use"):
        bench.open()


def test_a_manifest_in_the_folder_counts_and_goes_with_it(bench: Bench) -> None:
    (bench.root / "f1" / "manifests").write_bytes(b"m" * 20 * CHUNK)
    for number in range(100):
        assert bench.put(number) == [STORED]
    assert disk_bytes(bench.root) <= LIMIT
    bench.reopen(fingerprint="f2")
    assert bench.put(*range(80)) == [STORED] * 80
    assert not (bench.root / "f1").exists()


def test_foreign_files_may_leave_no_room(bench: Bench) -> None:
    bench.store.close()
    (bench.root / "photo").write_bytes(b"c" * LIMIT)
    with pytest.raises(StoreUnusable, match="not the store's"):
        bench.open()


def test_a_smaller_limit_after_a_restart(bench: Bench) -> None:
    bench.put(*range(80))
    bench.reopen(bytes_limit=20 * CHUNK)
    assert disk_bytes(bench.root) <= 20 * CHUNK
    assert 0 < bench.store.stats().chunks < 20


def test_the_smallest_limit_works_and_below_it_is_refused(tmp_path: Path) -> None:
    common: dict[str, Any] = {"root": tmp_path / "r", "fingerprint": "f", "chunk_bytes": 10_000}
    with pytest.raises(StoreUnusable, match=r"allow at least (\d+) bytes") as refusal:
        SsdStore.open(SsdConfig(**common, bytes_limit=10_000))
    least = int(str(refusal.value).split("allow at least ")[1].split()[0])
    store = SsdStore.open(SsdConfig(**common, bytes_limit=least))
    for number in range(3):
        assert store.put([key(number)], [memoryview(bytes(10_000))], OWNER) == [STORED]
        assert disk_bytes(tmp_path / "r") <= least
    assert store.stats().chunks == 1
    store.close()


def test_one_process_at_a_time(bench: Bench) -> None:
    with pytest.raises(StoreUnusable, match="in use"):
        bench.open(fingerprint="f2")


@pytest.mark.parametrize("name", ["", "..", "a/b", "lock", ".x"])
def test_a_fingerprint_names_a_folder(bench: Bench, name: str) -> None:
    with pytest.raises(StoreUnusable, match="cannot name"):
        bench.open(fingerprint=name)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("hello")
    with pytest.raises(StoreUnusable, match="cannot be used"):
        Bench(tmp_path / "root")


def test_a_shared_root_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o1777)
    with pytest.raises(StoreUnusable, match="shared"):
        Bench(tmp_path / "root")


def test_a_link_in_place_of_the_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (bench.root / "f2").symlink_to(tmp_path / "elsewhere")
    bench.store.close()
    with pytest.raises(StoreUnusable, match="not a folder"):
        bench.open(fingerprint="f2")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("write", errno.ENOSPC),
        ("write", errno.EIO),
        ("open", errno.EACCES),
        ("open", errno.EROFS),
        ("create", errno.EROFS),
    ],
)
def test_a_failing_disk_is_said_once_and_recovered_from(
    bench: Bench, caplog: pytest.LogCaptureFixture, kind: str, code: int
) -> None:
    caplog.set_level(logging.INFO)
    bench.put(1)
    bench.files.broken = {kind: code, "create": code, "remove": code}
    for number in range(2, 6):
        if kind == "create":
            assert bench.put(*range(number * 20, number * 20 + 20))[-1] is REFUSED
        else:
            assert bench.put(number) == [REFUSED]
    assert not bench.store.stats().healthy
    assert bench.store.stats().failed_writes >= 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    bench.files.broken = {}
    assert bench.put(2) == [STORED]
    assert bench.store.stats().healthy
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
    assert bench.get(1, 2) == [OK, OK]
    assert disk_bytes(bench.root) <= LIMIT


def test_a_failing_read_keeps_the_chunk(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put(1)
    bench.files.broken = {"read": errno.EIO}
    assert bench.get(1) == bench.get(1) == [ReadOutcome.FAILED]
    assert bench.store.stats().failed_reads == 2
    assert len(caplog.records) == 1
    bench.files.broken = {}
    assert bench.get(1) == [OK]


@pytest.mark.parametrize("lost", [".", "f1"])
def test_the_folder_is_removed_while_running(bench: Bench, lost: str) -> None:
    bench.put(1)
    shutil.rmtree(bench.root / lost)
    assert bench.put(2) == [REFUSED]
    assert not bench.store.stats().healthy
    assert bench.get(1) == [MISSING]
    assert bench.put(2) == [STORED]
    assert bench.store.stats().healthy
    assert bench.get(1, 2) == [MISSING, OK]
    with pytest.raises(StoreUnusable, match="in use"):
        bench.open()
    bench.reopen()
    assert bench.get(2) == [OK]


def test_a_folder_that_comes_back_is_used_again(bench: Bench) -> None:
    bench.put(1)
    away = bench.root.with_name("away")
    bench.root.rename(away)
    bench.root.write_text("in the way")
    assert bench.get(1) == [MISSING]
    assert bench.put(2) == bench.put(2) == [REFUSED]
    bench.root.unlink()
    away.rename(bench.root)
    assert bench.put(2) == [STORED]
    assert bench.get(1, 2) == [OK, OK]


def test_a_failed_delete_is_made_good(bench: Bench) -> None:
    bench.put(1, 2)
    bench.files.broken = {"write": errno.EIO, "remove": errno.EIO}
    assert bench.store.delete([key(1)]) == 1
    assert bench.get(1) == [MISSING]
    bench.files.broken = {}
    bench.store.flush()
    bench.reopen()
    assert bench.get(1) == [MISSING]


def test_deleting_all_of_a_segment_frees_it(bench: Bench) -> None:
    before = bench.store.stats().bytes_used
    bench.put(*range(10))
    assert bench.store.delete([key(n) for n in range(10)]) == 10
    assert bench.store.stats().bytes_used == before
    assert not list(bench.root.glob("f1/*"))


def test_recency_survives_a_restart(bench: Bench) -> None:
    bench.put(*range(60))
    assert bench.get(0) == [OK]
    bench.reopen()
    while bench.store.stats().evicted_chunks == 0:
        bench.put(int(bench.now))
    assert bench.store.contains(key(0))
    assert not bench.store.contains(key(20))


def test_memory_only_questions_touch_no_disk(bench: Bench) -> None:
    bench.put(1)
    bench.files.broken = dict.fromkeys(["read", "write", "open", "entries", "folder"], errno.EIO)
    assert bench.store.contains(key(1))
    assert bench.store.stats().chunks == 1
    assert bench.store.stats().healthy
