"""The index: what is known, what is found, and changes beside lookups."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.snapshot import Contents, Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import RECORDS, Layout, SegmentSummary
from cache_tiers.types import ChunkKey

CHUNK = 10_000
FILES = OsFiles()
A, B, C, D = (ChunkKey(name) for name in (b"a", b"b", b"c", b"d"))


class KnownKeys:
    def __init__(self) -> None:
        self.owners = {1, 2}
        self.kept: set[bytes] = set()


def extent(segment: int, page: int, owner: int = 1) -> Extent:
    nonce = segment.to_bytes(4, "little") + page.to_bytes(8, "little")
    return Extent(segment, page, CHUNK, Seal(owner, nonce, bytes(48), bytes(16)))


def written(path: Path, contents: Contents, segments: int = 4) -> Snapshot:
    summaries = [SegmentSummary(i, bytes(16), Mark(8, 0), 0, 0.0) for i in range(segments)]
    write_snapshot(FILES, path, "f", CHUNK, summaries, contents)
    snapshot = Snapshot.open(FILES, path, "f", CHUNK)
    assert snapshot is not None
    return snapshot


@pytest.fixture
def keys() -> KnownKeys:
    return KnownKeys()


@pytest.fixture(params=["added", "in the base"])
def index(request: pytest.FixtureRequest, tmp_path: Path, keys: KnownKeys) -> Index:
    """A and B in segment 0, C in segment 1; A and C of owner 1, B of owner 2."""
    index = Index(keys)
    index.add(0, [(A, extent(0, 0)), (B, extent(0, 3, owner=2))])
    index.add(1, [(C, extent(1, 0))])
    if request.param == "added":
        return index
    return Index(keys, written(tmp_path / "first", index.contents()))


def test_what_is_known_is_found(index: Index) -> None:
    assert len(index) == 3
    assert index.find([C, D, A]) == [extent(1, 0), None, extent(0, 0)]
    assert [key in index for key in (A, B, C, D)] == [True, True, True, False]
    assert index.live(0) == (2, 6)
    assert index.live(1) == (1, 3)
    assert index.live(9) == (0, 0)
    assert index.of_segment(0) == [(A, extent(0, 0)), (B, extent(0, 3, owner=2))]
    assert index.of_segment(9) == []


def test_the_later_place_holds(index: Index) -> None:
    index.add(2, [(A, extent(2, 0)), (A, extent(2, 3))])
    assert index.find([A]) == [extent(2, 3)]
    assert len(index) == 3
    assert [index.live(i) for i in range(3)] == [(1, 3), (1, 3), (1, 3)]
    assert [key for key, _ in index.of_segment(0)] == [B]


def test_the_same_place_again_changes_nothing(index: Index) -> None:
    index.add(0, [(A, extent(0, 0))])
    assert len(index) == 3
    assert index.live(0) == (2, 6)
    assert [key for key, _ in index.of_segment(0)] == [A, B]


def test_forget(index: Index) -> None:
    assert index.forget([A, D, A]) == [(A, extent(0, 0))]
    assert A not in index
    assert index.find([A]) == [None]
    assert len(index) == 2
    assert index.live(0) == (1, 3)
    index.add(0, [(A, extent(0, 6))])
    assert index.find([A]) == [extent(0, 6)]


def test_forget_extent_only_where_it_is(index: Index) -> None:
    assert not index.forget_extent(A, extent(0, 1))
    assert not index.forget_extent(A, extent(1, 0))
    assert not index.forget_extent(D, extent(0, 0))
    assert index.forget_extent(A, extent(0, 0, owner=2))
    assert not index.forget_extent(A, extent(0, 0))
    assert A not in index


def test_forget_at(index: Index) -> None:
    assert not index.forget_at(C, 1, 3)
    assert not index.forget_at(C, 0, 0)
    assert index.forget_at(C, 1, 0)
    assert C not in index
    assert index.live(1) == (0, 0)


def test_forget_segment(index: Index) -> None:
    index.add(0, [(D, extent(0, 6))])
    places = [extent(0, 0), extent(0, 3, owner=2), extent(0, 6)]
    assert index.forget_segment(0) == places
    assert index.forget_segment(0) == []
    assert [key in index for key in (A, B, C, D)] == [False, False, True, False]
    assert len(index) == 1
    assert index.live(0) == (0, 0)


def test_a_destroyed_key_hides_its_chunks_until_they_are_forgotten(
    index: Index, keys: KnownKeys
) -> None:
    keys.owners.discard(1)
    assert [key in index for key in (A, B, C)] == [False, True, False]
    assert index.find([A, B, C]) == [None, extent(0, 3, owner=2), None]
    assert len(index) == 3
    assert index.live(0) == (2, 6)
    assert [key for key, _ in index.of_segment(0)] == [A, B]
    assert index.forget([A]) == [(A, extent(0, 0))]
    assert index.forget_segment(1) == [extent(1, 0)]


def test_a_kept_chunk_is_found_without_its_owner(index: Index, keys: KnownKeys) -> None:
    keys.owners.discard(1)
    keys.kept.add(extent(1, 0).seal.nonce)
    assert [key in index for key in (A, C)] == [False, True]
    assert index.find([A, C]) == [None, extent(1, 0)]


def test_what_no_snapshot_could_hold_is_not_added(index: Index) -> None:
    for name in (b"", b"k" * 65):
        index.add(0, [(ChunkKey(name), extent(0, 9))])
        assert ChunkKey(name) not in index
    index.add(0, [(D, extent(1, 9))])
    assert D not in index
    index.add(0, [(ChunkKey(b"k" * 64), extent(0, 9))])
    assert ChunkKey(b"k" * 64) in index
    assert len(index) == 4


def test_drop_base_segment_leaves_what_was_added(tmp_path: Path, keys: KnownKeys) -> None:
    first = Index(keys)
    first.add(0, [(A, extent(0, 0)), (B, extent(0, 3))])
    first.add(1, [(C, extent(1, 0))])
    index = Index(keys, written(tmp_path / "snapshot", first.contents()))
    index.add(0, [(D, extent(0, 6)), (A, extent(0, 9))])
    index.drop_base_segment(0)
    index.drop_base_segment(9)
    assert [key in index for key in (A, B, C, D)] == [True, False, True, True]
    assert len(index) == 3
    assert index.live(0) == (2, 6)
    index.drop_base_segment(0)
    assert index.live(0) == (2, 6)


def test_rebase_keeps_what_changed_meanwhile(index: Index, tmp_path: Path) -> None:
    index.add(2, [(D, extent(2, 0))])
    contents = index.contents()
    index.forget([A])
    index.add(3, [(B, extent(3, 0))])
    e = ChunkKey(b"e")
    index.add(3, [(e, extent(3, 3))])
    index.rebase(written(tmp_path / "snapshot", contents), contents)
    assert index.find([A, B, C, D, e]) == [
        *(None, extent(3, 0), extent(1, 0)),
        *(extent(2, 0), extent(3, 3)),
    ]
    assert len(index) == 4
    assert [index.live(i) for i in range(4)] == [(0, 0), (1, 3), (1, 3), (2, 6)]
    again = index.contents()
    assert set(again.added) == {B, e}


def test_rebase_after_a_segment_was_forgotten(index: Index, tmp_path: Path) -> None:
    contents = index.contents()
    index.forget_segment(0)
    index.rebase(written(tmp_path / "snapshot", contents), contents)
    assert [key in index for key in (A, B, C)] == [False, False, True]
    assert len(index) == 1
    assert index.live(0) == (0, 0)


def test_rebase_keeps_chunks_of_segments_younger_than_the_table(
    index: Index, tmp_path: Path
) -> None:
    index.add(3, [(D, extent(3, 0))])
    contents = index.contents()
    index.rebase(written(tmp_path / "snapshot", contents, segments=3), contents)
    assert index.find([D]) == [extent(3, 0)]
    assert len(index) == 4


def test_contents_serve_one_rebase(index: Index, tmp_path: Path) -> None:
    contents = index.contents()
    snapshot = written(tmp_path / "snapshot", contents)
    index.rebase(snapshot, contents)
    with pytest.raises(ValueError, match="another base"):
        index.rebase(snapshot, contents)
    assert len(index) == 3


def test_contents_are_of_one_moment(index: Index, tmp_path: Path) -> None:
    contents = index.contents()
    index.forget([A, C])
    index.add(2, [(D, extent(2, 0))])
    snapshot = written(tmp_path / "snapshot", contents)
    assert [snapshot.number(key) >= 0 for key in (A, B, C, D)] == [True, True, True, False]


def test_close(index: Index) -> None:
    index.close()
    assert A not in index
    assert index.find([A]) == [None]
    assert len(index) == 0
    assert index.of_segment(0) == []


def test_reset(index: Index, tmp_path: Path, keys: KnownKeys) -> None:
    other = Index(keys)
    other.add(2, [(D, extent(2, 0))])
    index.reset(written(tmp_path / "other", other.contents()))
    assert [key in index for key in (A, D)] == [False, True]
    assert len(index) == 1
    index.reset(None)
    assert len(index) == 0


def test_changes_are_counted_from_the_snapshot_on(tmp_path: Path, keys: KnownKeys) -> None:
    index = Index(keys)
    index.add(0, [(A, extent(0, 0)), (B, extent(0, 3))])
    contents = index.contents()
    index.add(1, [(A, extent(1, 0))])
    assert index.changes == 2
    index.rebase(written(tmp_path / "snapshot", contents), contents)
    assert index.changes == 1


def test_nothing_is_left_of_segments_that_are_gone(keys: KnownKeys) -> None:
    index = Index(keys)
    for segment in range(50):
        index.add(segment, [(A, extent(segment, 0))])
    index.forget([A])
    assert index._state.segments == {}
    assert index._state.added == {}


@pytest.mark.parametrize("way", ["in", "find"])
def test_a_chunk_that_moves_during_a_lookup_is_found(
    tmp_path: Path, keys: KnownKeys, way: str
) -> None:
    """It is added elsewhere, which kills its record, after the lookup saw that nothing of it was
    added."""
    first = Index(keys)
    first.add(0, [(A, extent(0, 0))])
    base = written(tmp_path / "snapshot", first.contents())

    class Slow(Snapshot):
        moved = False

        def number(self, key: ChunkKey) -> int:
            if not self.moved:
                self.moved = True
                index.add(1, [(key, extent(1, 0))])
            return super().number(key)

    slow = Slow.open(FILES, tmp_path / "snapshot", "f", CHUNK)
    assert slow is not None
    assert len(slow) == len(base) == 1
    index = Index(keys, slow)
    assert A in index if way == "in" else index.find([A]) == [extent(1, 0)]


def test_a_chunk_is_added_before_its_record_dies(tmp_path: Path, keys: KnownKeys) -> None:
    first = Index(keys)
    first.add(0, [(A, extent(0, 0))])
    written(tmp_path / "snapshot", first.contents())
    found: list[bool] = []

    class Watched(Snapshot):
        def pages(self, number: int) -> int:
            found.append(A in index)
            return super().pages(number)

    index = Index(keys, Watched.open(FILES, tmp_path / "snapshot", "f", CHUNK))
    index.add(1, [(A, extent(1, 0))])
    assert found == [True]


def damaged(path: Path, number: int, field: str, value: int) -> Snapshot:
    """The snapshot at ``path`` with another number in one record."""
    snapshot = Snapshot.open(FILES, path, "f", CHUNK)
    assert snapshot is not None
    layout = Layout(len(snapshot.segments), len(snapshot))
    data = bytearray(path.read_bytes())
    np.frombuffer(data, RECORDS, len(snapshot), layout.records_at)[field][number] = value
    return Snapshot(memoryview(data), CHUNK, snapshot.segments)


def test_a_record_that_names_another_length(tmp_path: Path, keys: KnownKeys) -> None:
    """It takes more off the count of pages than it added."""
    first = Index(keys)
    first.add(0, [(A, replace(extent(0, 0), length=1)), (B, replace(extent(0, 9), length=1))])
    written(tmp_path / "snapshot", first.contents())
    index = Index(keys, damaged(tmp_path / "snapshot", 0, "length", CHUNK))
    index.forget([A])
    assert index.live(0) == (1, 0)


def test_two_records_of_one_place(tmp_path: Path, keys: KnownKeys) -> None:
    first = Index(keys)
    first.add(0, [(A, extent(0, 0)), (B, extent(0, 3))])
    written(tmp_path / "snapshot", first.contents())
    index = Index(keys, damaged(tmp_path / "snapshot", 1, "page", 0))
    contents = index.contents()
    index.forget([A, B])
    index.rebase(written(tmp_path / "snapshot", contents), contents)
    assert index.live(0)[0] == len(index) == 1
    index.forget_segment(0)
    assert len(index) == 0


def test_lookups_beside_changes_and_rebases(tmp_path: Path, keys: KnownKeys) -> None:
    """A chunk that is known all the time is found all the time, wherever it moves."""
    index = Index(keys)
    names = [ChunkKey(b"%d" % i) for i in range(50)]
    index.add(0, [(key, extent(0, 3 * i)) for i, key in enumerate(names)])
    done = threading.Event()
    missed: list[ChunkKey] = []
    looked = [0, 0]

    def look(which: int) -> None:
        while not done.is_set() or not looked[which]:
            missed.extend(key for key in names if key not in index)
            missed.extend(
                key for key, place in zip(names, index.find(names), strict=True) if place is None
            )
            looked[which] += 1

    threads = [threading.Thread(target=look, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for step in range(1, 31):
        contents = index.contents()
        index.add(step % 4, [(key, extent(step % 4, 150 * step + 3 * i)) for i, key in
                             enumerate(names[step % 3 :: 3])])  # fmt: skip
        index.add(3, [(D, extent(3, 10_000 + 3 * step))])
        index.rebase(written(tmp_path / "snapshot", contents), contents)
        index.forget([D])
    done.set()
    for thread in threads:
        thread.join()
    assert missed == []
    assert len(index) == len(names)
