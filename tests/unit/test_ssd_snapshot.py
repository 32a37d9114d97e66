"""Snapshots: written, read, damaged, and hostile."""

import errno
import os
import random
import stat
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from cache_tiers.ssd import snapshot_format
from cache_tiers.ssd.extent import PAGE_BYTES, Extent, Seal
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.snapshot import Contents, Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import RECORDS, Layout, SegmentSummary
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey
from tests.power_loss import LossyFiles, PowerCut

CHUNK = 10_000
FILES = OsFiles()
SEGMENTS = [
    SegmentSummary(2, b"tenant-b".ljust(16), Mark(700, 2**64 - 1), 30, 12.5),
    SegmentSummary(7, b"tenant-c".ljust(16), Mark(64, 3), 0, 0.0),
    SegmentSummary(2**32 - 1, b"tenant-d".ljust(16), Mark(2**40, 5), 5, 1e9),
]


def extent(segment: int, page: int, length: int = CHUNK) -> Extent:
    return Extent(segment, page, length, Seal(2**63 + page, *map(os.urandom, (12, 48, 16))))


def some_chunks() -> dict[ChunkKey, Extent]:
    names = [b"\0", b"k" * 64, b"zeros behind\0\0", *(b"key%d" % i for i in range(6))]
    random.Random(1).shuffle(names)
    return {
        ChunkKey(name): extent(2 if i % 3 else 2**32 - 1, 3 * i, CHUNK if i % 2 else 1 + i)
        for i, name in enumerate(names)
    }


def write(
    path: Path,
    added: dict[ChunkKey, Extent],
    base: Snapshot | None = None,
    dead: Sequence[int] = (),
    files: OsFiles = FILES,
    segments: Sequence[SegmentSummary] = SEGMENTS,
) -> int:
    base = base or Snapshot.empty()
    flags = bytes(number in dead for number in range(len(base)))
    return write_snapshot(files, path, "f", CHUNK, segments, Contents(base, flags, added))


def read(path: Path, files: OsFiles = FILES) -> Snapshot | None:
    return Snapshot.open(files, path, "f", CHUNK)


def opened(path: Path) -> Snapshot:
    snapshot = read(path)
    assert snapshot is not None
    return snapshot


def find(snapshot: Snapshot, key: ChunkKey) -> Extent | None:
    number = snapshot.number(key)
    return snapshot.extent(number) if number >= 0 else None


def everything(snapshot: Snapshot) -> dict[ChunkKey, Extent]:
    puts = [snapshot.put(number) for number in range(len(snapshot))]
    return dict(put for put in puts if put is not None)


class Showing(OsFiles):
    """Every file has this content."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def size(self, file: int) -> int:
        return len(self.content)

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        part = self.content[offset : offset + into[0].nbytes]
        into[0][: len(part)] = part
        return len(part)


def check_harmless(snapshot: Snapshot, truth: dict[ChunkKey, Extent]) -> None:
    """Whatever the file says: what is found is a chunk within its segment."""
    found = {key: find(snapshot, key) for key in [*truth, ChunkKey(b"absent"), ChunkKey(b"")]}
    puts = [snapshot.put(number) for number in range(len(snapshot))]
    places = [*found.values(), *(put[1] for put in puts if put)]
    for place in places:
        if place is None:
            continue
        summary = snapshot.segments[place.segment]
        assert place.page >= 0
        assert 0 < place.length <= CHUNK
        assert place.page + place.pages <= summary.pages
        number = snapshot.number_at(place.segment, place.page)
        assert number == -1 or number in snapshot.numbers_of(place.segment)
        seal = place.seal
        assert (len(seal.nonce), len(seal.wrapped), len(seal.tag)) == (12, 48, 16)
    assert all(0 < len(put[0]) <= 64 for put in puts if put)
    assert found[ChunkKey(b"absent")] is None
    assert found[ChunkKey(b"")] is None
    assert len(snapshot.sound()) == len(snapshot)


def test_what_is_written_is_found(tmp_path: Path) -> None:
    chunks = some_chunks()
    path = tmp_path / "snapshot"
    written = write(path, chunks)
    snapshot = opened(path)
    assert written == path.stat().st_size == Layout(len(SEGMENTS), len(chunks)).bytes
    assert len(snapshot) == len(chunks)
    assert {key: find(snapshot, key) for key in chunks} == chunks
    assert everything(snapshot) == chunks
    assert find(snapshot, ChunkKey(b"absent")) is None
    assert find(snapshot, ChunkKey(b"zeros behind\0")) is None
    for key, place in chunks.items():
        number = snapshot.number(key)
        assert snapshot.number_at(place.segment, place.page) == number
        assert snapshot.place(number) == (place.segment, place.page)
        assert snapshot.pages(number) == place.pages
        assert (snapshot.owner(number), snapshot.nonce(number)) == (
            place.seal.owner,
            place.seal.nonce,
        )
    assert snapshot.number_at(2, 1) == snapshot.number_at(2, 99) == snapshot.number_at(3, 0) == -1


def test_segments_share_out_the_records(tmp_path: Path) -> None:
    chunks = some_chunks()
    write(tmp_path / "snapshot", chunks)
    snapshot = opened(tmp_path / "snapshot")
    assert list(snapshot.segments) == [2, 7, 2**32 - 1]
    for before in SEGMENTS:
        summary = snapshot.segments[before.id]
        places = sorted(
            (place.page, place.pages) for place in chunks.values() if place.segment == before.id
        )
        assert (summary.tenant, summary.mark) == (before.tenant, before.mark)
        assert summary.last_used == before.last_used
        assert (summary.count, summary.chunk_pages) == (len(places), sum(n for _, n in places))
        assert summary.pages == max([before.pages, *(page + n for page, n in places)])
        numbers = snapshot.numbers_of(before.id)
        assert [snapshot.place(number)[1] for number in numbers] == [page for page, _ in places]
    assert not snapshot.numbers_of(3)


def test_a_new_one_is_the_old_without_the_dead_and_with_what_was_added(tmp_path: Path) -> None:
    chunks = some_chunks()
    write(tmp_path / "old", chunks)
    old = opened(tmp_path / "old")
    gone, moved = list(chunks)[:2]
    added = {moved: extent(7, 100), ChunkKey(b"new"): extent(2, 60)}
    write(tmp_path / "new", added, old, [old.number(gone), old.number(moved)])
    expected = {**chunks, **added}
    del expected[gone]
    new = opened(tmp_path / "new")
    assert everything(new) == expected
    assert {key: find(new, key) for key in expected} == expected


def test_chunks_of_segments_that_are_not_named_are_left_out(tmp_path: Path) -> None:
    chunks = some_chunks()
    write(tmp_path / "snapshot", chunks, segments=SEGMENTS[1:])
    assert everything(opened(tmp_path / "snapshot")) == {
        key: place for key, place in chunks.items() if place.segment != 2
    }


def test_none_at_all(tmp_path: Path) -> None:
    write(tmp_path / "snapshot", {}, segments=[])
    for snapshot in (opened(tmp_path / "snapshot"), Snapshot.empty()):
        assert len(snapshot) == 0
        assert snapshot.number(ChunkKey(b"key")) == snapshot.number_at(0, 0) == -1


def test_many(tmp_path: Path) -> None:
    keys = [ChunkKey(b"%d" % i) for i in range(40_000)]
    chunks = {key: extent(2, 3 * i) for i, key in enumerate(keys)}
    write(tmp_path / "snapshot", chunks)
    snapshot = opened(tmp_path / "snapshot")
    assert all(find(snapshot, key) == chunks[key] for key in keys)
    assert all(snapshot.number(ChunkKey(b"no%d" % i)) == -1 for i in range(1000))


def test_a_crowded_bucket_costs_chunks_not_time(tmp_path: Path) -> None:
    bits = Layout(0, 100).bucket_bits
    names = (ChunkKey(b"%d" % i) for i in range(100_000))
    crowd = [key for key in names if xxhash.xxh3_64_intdigest(key) >> (64 - bits) == 5][:100]
    write(tmp_path / "snapshot", {key: extent(2, 3 * i) for i, key in enumerate(crowd)})
    snapshot = opened(tmp_path / "snapshot")
    assert sum(snapshot.number(key) >= 0 for key in crowd) == 64


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    chunks = some_chunks()
    write(tmp_path / "snapshot", chunks)
    snapshot = opened(tmp_path / "snapshot")
    write(tmp_path / "snapshot", {})
    assert everything(snapshot) == chunks
    (tmp_path / "snapshot").unlink()
    assert everything(snapshot) == chunks


def test_the_file_is_private(tmp_path: Path) -> None:
    write(tmp_path / "snapshot", {})
    assert stat.S_IMODE((tmp_path / "snapshot").stat().st_mode) == 0o600


def test_absent_or_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    assert read(path) is None
    path.write_bytes(b"")
    assert read(path) is None
    path.write_bytes(b"something else " * 100)
    assert read(path) is None
    write(path, some_chunks())
    assert Snapshot.open(FILES, path, "g", CHUNK) is None
    assert Snapshot.open(FILES, path, "f", CHUNK + 1) is None
    assert read(path) is not None


def with_version(data: bytes, version: int) -> bytes:
    start = data[:8] + struct.pack("<I", version)
    check = xxhash.xxh3_64_intdigest(start) & 0xFFFFFFFF
    return start + struct.pack("<I", check) + data[16:]


def test_versions(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write(path, some_chunks())
    data = path.read_bytes()
    assert with_version(data, snapshot_format.VERSION) == data
    path.write_bytes(with_version(data, snapshot_format.VERSION + 1))
    with pytest.raises(StoreUnusable, match="newer"):
        read(path)
    path.write_bytes(with_version(data, 0))
    assert read(path) is None


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    chunks = some_chunks()
    path = tmp_path / "snapshot"
    write(path, chunks)
    data = path.read_bytes()
    head = 56 + 64 * len(SEGMENTS)
    for at in [*range(head), *range(PAGE_BYTES, len(data))]:
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            snapshot = read(path, Showing(bytes(damaged)))
            assert (snapshot is None) == (at < head)
            if snapshot is not None and bit == at % 8:
                check_harmless(snapshot, chunks)


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write(path, some_chunks())
    data = path.read_bytes()
    assert all(read(path, Showing(data[:size])) is None for size in range(len(data)))
    assert read(path, Showing(data + b"\0")) is None


@pytest.mark.parametrize("part", ["records", "order", "starts"])
def test_a_part_that_is_nonsense(tmp_path: Path, part: str) -> None:
    chunks = some_chunks()
    path = tmp_path / "snapshot"
    write(path, chunks)
    data = path.read_bytes()
    layout = Layout(len(SEGMENTS), len(chunks))
    begin, end = {
        "records": (layout.records_at, layout.order_at),
        "order": (layout.order_at, layout.starts_at),
        "starts": (layout.starts_at, layout.bytes),
    }[part]
    chance = random.Random(3)
    for fill in [b"\xff" * (end - begin), bytes(end - begin)] + [
        chance.randbytes(end - begin) for _ in range(200)
    ]:
        snapshot = read(path, Showing(data[:begin] + fill + data[end:]))
        assert snapshot is not None
        check_harmless(snapshot, chunks)


@pytest.mark.parametrize(
    "segments",
    [
        [SegmentSummary(2, bytes(16), Mark(0, 0), 9, 0.0, 1, 9)],
        [SegmentSummary(2, bytes(16), Mark(0, 0), 9, 0.0, 0, 5), SEGMENTS[0]],
        [
            SegmentSummary(3, bytes(16), Mark(0, 0), 9, 0.0, 0, 5),
            SegmentSummary(2, bytes(16), Mark(0, 0), 9, 0.0, 5, 4),
        ],
        [SegmentSummary(2, bytes(16), Mark(0, 0), 9, float("nan"), 0, 9)],
        [SegmentSummary(2, bytes(16), Mark(0, 0), 9, float("inf"), 0, 9)],
    ],
    ids=["starts late", "not by id, none first", "not by id", "nan", "inf"],
)
def test_a_table_that_cannot_be(tmp_path: Path, segments: list[SegmentSummary]) -> None:
    front = snapshot_format.encode("f", CHUNK, segments)
    records = sum(summary.count for summary in segments)
    data = front.ljust(Layout(len(segments), records).bytes, b"\0")
    (tmp_path / "snapshot").touch()
    assert read(tmp_path / "snapshot", Showing(data)) is None


def test_a_planted_table_reaches_no_further_than_the_file(tmp_path: Path) -> None:
    segments = [SegmentSummary(2, bytes(16), Mark(0, 0), 2**32 - 1, 0.0, 0, 3, 2**63)]
    data = snapshot_format.encode("f", CHUNK, segments).ljust(Layout(1, 3).bytes, b"\xff")
    (tmp_path / "snapshot").touch()
    snapshot = read(tmp_path / "snapshot", Showing(data))
    assert snapshot is not None
    check_harmless(snapshot, some_chunks())


def with_field(data: bytes, number: int, field: str, value: object) -> bytes:
    layout = Layout(len(SEGMENTS), len(some_chunks()))
    records = np.frombuffer(data[layout.records_at : layout.order_at], RECORDS).copy()
    records[field][number] = value
    return data[: layout.records_at] + records.tobytes() + data[layout.order_at :]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("segment", 7), ("segment", 9), ("page", 2**32 - 1), ("page", 30)),
        *(("length", 0), ("length", CHUNK + 1), ("key_bytes", 0), ("key_bytes", 65)),
        *(("key", b"other"), ("hash", 5)),
    ],
)
def test_a_damaged_record_is_not_found_nor_carried_on(
    tmp_path: Path, field: str, value: object
) -> None:
    chunks = some_chunks()
    write(
        tmp_path / "old",
        chunks,
        segments=[SEGMENTS[0], replace(SEGMENTS[1], pages=99), *SEGMENTS[2:]],
    )
    whole = opened(tmp_path / "old")
    number = max(whole.numbers_of(2))
    put = whole.put(number)
    assert put is not None
    damaged = with_field((tmp_path / "old").read_bytes(), number, field, value)
    base = read(tmp_path / "old", Showing(damaged))
    assert base is not None
    expected = {key: place for key, place in chunks.items() if key != put[0]}
    assert base.number(put[0]) == -1
    assert everything(base) == expected
    write(tmp_path / "new", {}, base)
    new = opened(tmp_path / "new")
    assert everything(new) == expected
    assert [new.segments[i].pages for i in new.segments] == [30, 0, 19]


def test_no_record_has_an_empty_key(tmp_path: Path) -> None:
    write(tmp_path / "snapshot", some_chunks())
    data = (tmp_path / "snapshot").read_bytes()
    data = with_field(data, 0, "hash", xxhash.xxh3_64_intdigest(b""))
    snapshot = read(tmp_path / "snapshot", Showing(with_field(data, 0, "key_bytes", 0)))
    assert snapshot is not None
    assert snapshot.put(0) is None


class Failing(OsFiles):
    """The disk fails at the ``last``-th call that changes it, and from then on if it is dead."""

    def __init__(self, last: int, *, dead: bool) -> None:
        self.last = last
        self.dead = dead
        self.calls = 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.last or (self.dead and self.calls > self.last):
            raise OSError(errno.EIO, "no disk")

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        self._count()
        return super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self._count()
        super().sync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._count()
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)

    def sync_folder(self, path: Path) -> None:
        self._count()
        super().sync_folder(path)


@pytest.mark.parametrize("dead", [False, True])
def test_a_disk_that_fails_leaves_the_old_or_the_new(tmp_path: Path, dead: bool) -> None:
    old, path = some_chunks(), tmp_path / "snapshot"
    new = {ChunkKey(b"new"): extent(2, 0)}
    counting = Failing(0, dead=False)
    write(path, new, files=counting)
    for last in range(1, counting.calls + 1):
        write(path, old)
        with pytest.raises(OSError, match="no disk"):
            write(path, new, files=Failing(last, dead=dead))
        whole = everything(opened(path))
        assert whole == (new if last == counting.calls else old)
        if not dead:
            assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot"]
    write(path, new)
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot"]
    assert everything(opened(path)) == new


def test_a_loss_of_power_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old, new = some_chunks(), {ChunkKey(b"new"): extent(2, 0)}

    def left(files: LossyFiles, image: Path) -> list[dict[ChunkKey, Extent]]:
        found = []
        for seed in range(4):
            files.crash_image(seed, image / str(seed))
            found.append(everything(opened(image / str(seed) / "snapshot")))
        files.close_all()
        return found

    def after_old(root: Path) -> LossyFiles:
        root.mkdir()
        files = LossyFiles(root)
        write(root / "snapshot", old, files=files)
        return files

    files = after_old(tmp_path / "root")
    before = files.calls
    write(tmp_path / "root" / "snapshot", new, files=files)
    steps = files.calls - before
    assert left(files, tmp_path / "whole") == [new] * 4
    for cut in range(1, steps + 1):
        files = after_old(tmp_path / f"root{cut}")
        files.stop_after(cut, part=0.5)
        with pytest.raises(PowerCut):
            write(tmp_path / f"root{cut}" / "snapshot", new, files=files)
        assert all(found in (old, new) for found in left(files, tmp_path / f"cut{cut}"))


def test_nothing_is_renamed_before_it_is_synced(tmp_path: Path) -> None:
    steps: list[str] = []

    class Recording(OsFiles):
        def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
            steps.append("write")
            return super().write(file, data, offset)

        def sync(self, file: int) -> None:
            steps.append("sync")
            super().sync(file)

        def replace(self, source: Path, target: Path) -> None:
            steps.append("replace")
            super().replace(source, target)

        def sync_folder(self, path: Path) -> None:
            steps.append("sync folder")
            super().sync_folder(path)

    write(tmp_path / "snapshot", some_chunks(), files=Recording())
    assert steps[-4:] == ["write", "sync", "replace", "sync folder"]
    assert set(steps[:-3]) == {"write"}
