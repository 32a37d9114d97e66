"""An index against a dict, with snapshots written, taken over and read again; and snapshots that
are damaged."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.snapshot import Contents, Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import SegmentSummary
from cache_tiers.types import ChunkKey

CHUNK = 9_000
FILES = OsFiles()
KEYS = [ChunkKey(bytes([i]) * (1 + 7 * i)) for i in range(10)]
SEGMENTS = range(4)
OWNERS = range(1, 4)


class KnownKeys:
    def __init__(self) -> None:
        self.owners = set(OWNERS)
        self.kept: set[bytes] = set()


def summaries(segments: set[int]) -> list[SegmentSummary]:
    return [SegmentSummary(i, bytes([i]) * 16, Mark(i, i), 0, float(i)) for i in segments]


class IndexMachine(RuleBasedStateMachine):
    """``known`` is what the index must know; ``in_base`` those of its keys that the snapshot
    says; ``taken`` what was known when ``contents`` were taken."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="index-")
        self.path = Path(self.folder.name) / "snapshot"
        self.sealer = KnownKeys()
        self.index = Index(self.sealer)
        self.known: dict[ChunkKey, Extent] = {}
        self.in_base: set[ChunkKey] = set()
        self.contents: Contents | None = None
        self.taken: dict[ChunkKey, Extent] = {}
        self.pages = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    def place(self, segment: int, length: int, owner: int) -> Extent:
        nonce = self.pages.to_bytes(12, "little")
        extent = Extent(segment, self.pages, length, Seal(owner, nonce, nonce * 4, bytes(16)))
        self.pages += extent.pages
        return extent

    def lose(self, keys: list[ChunkKey]) -> None:
        for key in keys:
            self.known.pop(key, None)
            self.in_base.discard(key)

    @rule(
        segment=st.sampled_from(SEGMENTS),
        names=st.lists(st.sampled_from(KEYS), max_size=6),
        length=st.integers(1, CHUNK),
        owner=st.sampled_from(OWNERS),
    )
    def add(self, segment: int, names: list[ChunkKey], length: int, owner: int) -> None:
        puts = [(key, self.place(segment, length, owner)) for key in names]
        self.index.add(segment, puts)
        self.in_base.difference_update(names)
        self.known.update(puts)

    @rule(names=st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    def forget(self, names: list[ChunkKey]) -> None:
        expected = [(key, self.known[key]) for key in names if key in self.known]
        assert self.index.forget(names) == expected
        self.lose(names)

    @rule(key=st.sampled_from(KEYS), other=st.sampled_from(KEYS))
    def forget_extent(self, key: ChunkKey, other: ChunkKey) -> None:
        extent = self.known.get(other)
        if extent is not None:
            assert self.index.forget_extent(key, extent) == (key == other)
            if key == other:
                self.lose([key])

    @rule(segment=st.sampled_from(SEGMENTS))
    def forget_segment(self, segment: int) -> None:
        gone = self.in_segment(segment)
        assert self.index.forget_segment(segment) == [extent for _, extent in gone]
        self.lose([key for key, _ in gone])

    @rule(segment=st.sampled_from(SEGMENTS))
    def drop_base_segment(self, segment: int) -> None:
        self.index.drop_base_segment(segment)
        self.lose([key for key, _ in self.in_segment(segment) if key in self.in_base])

    @rule(owner=st.sampled_from(OWNERS), kept=st.sets(st.sampled_from(KEYS)))
    def destroy_owner(self, owner: int, kept: set[ChunkKey]) -> None:
        self.sealer.kept |= {self.known[key].seal.nonce for key in kept if key in self.known}
        self.sealer.owners.discard(owner)

    @rule(owner=st.sampled_from(OWNERS))
    def restore_owner(self, owner: int) -> None:
        self.sealer.owners.add(owner)

    @rule()
    def take_contents(self) -> None:
        self.contents = self.index.contents()
        self.taken = dict(self.known)

    @precondition(lambda self: self.contents is not None)
    @rule(named=st.just(set(SEGMENTS)) | st.sets(st.sampled_from(SEGMENTS)))
    def rebase(self, named: set[int]) -> None:
        assert self.contents is not None
        self.index.rebase(self.written(self.contents, named), self.contents)
        unchanged = {key for key, extent in self.taken.items() if self.known.get(key) is extent}
        unnamed = {key for key in unchanged if self.taken[key].segment not in named}
        self.lose(list(unnamed & self.in_base))
        self.in_base = unchanged - unnamed
        self.contents = None

    @rule()
    def open_again(self) -> None:
        self.index = Index(self.sealer, self.written(self.index.contents(), set(SEGMENTS)))
        self.in_base = set(self.known)
        self.contents = None

    def written(self, contents: Contents, named: set[int]) -> Snapshot:
        write_snapshot(FILES, self.path, "f", CHUNK, summaries(named), contents)
        snapshot = Snapshot.open(FILES, self.path, "f", CHUNK)
        assert snapshot is not None
        return snapshot

    def in_segment(self, segment: int) -> list[tuple[ChunkKey, Extent]]:
        puts = [put for put in self.known.items() if put[1].segment == segment]
        return sorted(puts, key=lambda put: put[1].page)

    def openable(self, key: ChunkKey) -> Extent | None:
        extent = self.known.get(key)
        if extent is None:
            return None
        opens = extent.seal.owner in self.sealer.owners or extent.seal.nonce in self.sealer.kept
        return extent if opens else None

    @invariant()
    def is_as_known(self) -> None:
        expected = [self.openable(key) for key in KEYS]
        assert self.index.find(KEYS) == expected
        assert [key in self.index for key in KEYS] == [extent is not None for extent in expected]
        assert len(self.index) == len(self.known)
        for segment in SEGMENTS:
            puts = self.in_segment(segment)
            assert self.index.of_segment(segment) == puts
            pages = sum(extent.pages for _, extent in puts)
            assert self.index.live(segment) == (len(puts), pages)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


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


def a_snapshot() -> bytes:
    index = Index(KnownKeys())
    for segment in (0, 2):
        puts = [
            (key, Extent(segment, 3 * i, CHUNK - i, Seal(1, bytes(12), bytes(48), bytes(16))))
            for i, key in enumerate(KEYS[segment : segment + 5])
        ]
        index.add(segment, puts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        write_snapshot(FILES, path, "f", CHUNK, summaries(set(SEGMENTS)), index.contents())
        return path.read_bytes()


WHOLE = a_snapshot()
RECORDS_AT = 4096


@settings(max_examples=300, deadline=None)
@given(
    damage=st.dictionaries(
        st.integers(RECORDS_AT, len(WHOLE) - 1), st.integers(0, 255), min_size=1, max_size=60
    ),
    steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(KEYS), st.sampled_from(SEGMENTS))),
)
def test_an_index_on_a_damaged_snapshot(
    damage: dict[int, int], steps: list[tuple[int, ChunkKey, int]]
) -> None:
    """It misses, but neither raises nor loses count."""
    data = bytearray(WHOLE)
    for at, value in damage.items():
        data[at] = value
    snapshot = Snapshot.open(Showing(bytes(data)), Path("/dev/null"), "f", CHUNK)
    assert snapshot is not None
    index = Index(KnownKeys(), snapshot)
    for what, key, segment in steps:
        if what == 0:
            extent = Extent(segment, 100, 5, Seal(1, bytes(12), bytes(48), bytes(16)))
            index.add(segment, [(key, extent)])
            assert index.find([key]) == [extent]
        elif what == 1:
            index.forget([key])
            assert index.find([key]) == [None]
        elif what == 2:
            assert len(index.forget_segment(segment)) <= 10
            assert index.live(segment) == (0, 0)
        elif what == 3:
            index.drop_base_segment(segment)
        else:
            for extent in index.find(KEYS):
                if extent is not None:
                    assert extent.segment in SEGMENTS
                    assert 0 < extent.length <= CHUNK
        counts = [index.live(segment) for segment in SEGMENTS]
        assert sum(chunks for chunks, _ in counts) == len(index)
        assert all(pages >= 0 for _, pages in counts)
        assert all(len(index.of_segment(i)) <= index.live(i)[0] for i in SEGMENTS)
    for segment in SEGMENTS:
        index.forget_segment(segment)
    assert len(index) == 0
