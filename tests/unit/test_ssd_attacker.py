"""Somebody who can write to the disk, knows the format and has no key: gets misses, and nobody is
given another chunk's bytes."""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from cache_tiers.ssd import journal
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import NOT_ENCRYPTED, PAGE_BYTES, Extent
from cache_tiers.ssd.journal import Header, Put
from cache_tiers.ssd.store import SsdStore
from cache_tiers.ssd.writer import tenant_tag
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles
from tests.hostile import CHUNK, LIMIT, MASTER, content, key, open_store

ALICE, BOB, EVE = (SessionKey(name) for name in ("acme/alice", "acme/bob", "evil/eve"))
NUMBERS = {ALICE: (0, 1, 2), BOB: (3, 4), EVE: (5, 6)}
SEGMENTS = {"acme": 1, "evil": 2}
MISSES = {ReadOutcome.MISSING, ReadOutcome.CORRUPT}


class Disk:
    """A closed store of three sessions in two segments."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = open_store(root, MASTER)
        for session, numbers in NUMBERS.items():
            self.put(session, *numbers)
        self.store.close()

    def put(self, session: SessionKey, *numbers: int) -> None:
        chunks = [memoryview(content(number, 1)) for number in numbers]
        stored = self.store.put([key(number) for number in numbers], chunks, session)
        assert stored == [WriteOutcome.STORED] * len(numbers)

    def path(self, segment: int, kind: str) -> Path:
        return self.root / "f" / f"{segment:010}.{kind}"

    def records(self, segment: int) -> list[Put]:
        data = self.path(segment, "journal").read_bytes()
        header = Header("f", segment, CHUNK, journal.tenant_in(data) or b"")
        said = journal.replay(data, header)
        assert said is not None
        return said.puts

    def rewrite(self, segment: int, tenant: str, records: Sequence[Put]) -> None:
        """A journal with right checksums that says what it is told to."""
        header = Header("f", segment, CHUNK, tenant_tag(SessionKey(tenant)))
        begin, mark = journal.begin(header)
        data, _ = journal.puts(records, mark)
        self.path(segment, "journal").write_bytes(begin + data)

    def page(self, extent: Extent) -> bytes:
        data = self.path(extent.segment, "segment").read_bytes()
        return data[extent.page * PAGE_BYTES :][:PAGE_BYTES]

    def overwrite(self, segment: int, page: int, data: bytes) -> None:
        with self.path(segment, "segment").open("r+b") as file:
            file.seek(page * PAGE_BYTES)
            file.write(data)

    def outcomes(self, *numbers: int) -> list[ReadOutcome]:
        """After a start. Whatever is OK is the chunk."""
        self.store = open_store(self.root, MASTER)
        views = [memoryview(bytearray(CHUNK)) for _ in numbers]
        outcomes = self.store.get([key(number) for number in numbers], views)
        for number, view, outcome in zip(numbers, views, outcomes, strict=True):
            assert outcome is not ReadOutcome.OK or view == content(number, 1)
        return outcomes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "store")
    yield disk
    disk.store.close()


def test_what_nobody_touched_is_there(disk: Disk) -> None:
    assert disk.outcomes(*range(7)) == [ReadOutcome.OK] * 7


def test_a_chunk_planted_in_the_clear(disk: Disk) -> None:
    config = SsdConfig(root=disk.root, fingerprint="f", chunk_bytes=CHUNK, bytes_limit=LIMIT)
    codec = Codec(config, ClearSealer())
    planted = memoryview(b"planted." * (CHUNK // 8))
    tag = tenant_tag(ALICE)
    records = disk.records(1)
    for number, page in ((0, records[0][1].page), (77, 9)):
        _, seal = codec.seal(tag, NOT_ENCRYPTED, key(number), planted, planted)
        extent = Extent(1, page, CHUNK, seal)
        assert codec.open(tag, key(number), extent, planted)
        disk.overwrite(1, page, planted)
        records = [put for put in records if put[0] != key(number)] + [(key(number), extent)]
    disk.rewrite(1, "acme", records)
    assert disk.outcomes(0, 77, 1, 2) == [ReadOutcome.MISSING] * 2 + [ReadOutcome.OK] * 2


@pytest.mark.parametrize("others", [(0, 1), (0, 3)], ids=["one session", "two sessions"])
def test_two_chunks_change_places(disk: Disk, others: tuple[int, int]) -> None:
    records = disk.records(1)
    first, second = (records[number] for number in others)
    swapped = {first[0]: second[1], second[0]: first[1]}
    disk.rewrite(1, "acme", [(k, swapped.get(k, extent)) for k, extent in records])
    assert disk.outcomes(*others) == [ReadOutcome.CORRUPT] * 2


def test_the_bytes_of_two_chunks_change_places(disk: Disk) -> None:
    first, second = (disk.records(1)[number][1] for number in (0, 3))
    pages = disk.page(first), disk.page(second)
    disk.overwrite(1, first.page, pages[1])
    disk.overwrite(1, second.page, pages[0])
    assert disk.outcomes(0, 3, 1) == [ReadOutcome.CORRUPT, ReadOutcome.CORRUPT, ReadOutcome.OK]


@pytest.mark.parametrize("own", [False, True], ids=["under its key", "under a key of hers"])
def test_a_chunk_is_taken_over_into_another_tenants_segment(disk: Disk, own: bool) -> None:
    stolen_key, stolen = disk.records(1)[0]
    records = disk.records(2)
    page = records[-1][1].page + 1
    disk.overwrite(2, page, disk.page(stolen))
    target = key(5) if own else stolen_key
    kept = [put for put in records if put[0] != target]
    disk.rewrite(2, "evil", [*kept, (target, replace(stolen, segment=2, page=page))])
    disk.path(1, "journal").unlink()
    assert set(disk.outcomes(0, 5 if own else 0)) <= MISSES


def test_a_segment_is_said_to_be_another_tenants(disk: Disk) -> None:
    disk.rewrite(1, "evil", disk.records(1))
    assert disk.outcomes(0, 3) == [ReadOutcome.CORRUPT] * 2


def test_a_segment_is_put_under_another_fingerprint(disk: Disk) -> None:
    (disk.root / "g").mkdir()
    for kind in ("journal", "segment"):
        data = disk.path(1, kind).read_bytes()
        (disk.root / "g" / f"0000000001.{kind}").write_bytes(data)
    header = Header("g", 1, CHUNK, tenant_tag(ALICE))
    begin, mark = journal.begin(header)
    data, _ = journal.puts(disk.records(1), mark)
    (disk.root / "g" / "0000000001.journal").write_bytes(begin + data)
    disk.store = open_store(disk.root, MASTER, "g")
    view = memoryview(bytearray(CHUNK))
    assert disk.store.get([key(0)], [view]) == [ReadOutcome.CORRUPT]


def other_owner(records: Sequence[Put]) -> int:
    return records[3][1].seal.owner


EDITS: dict[str, Callable[[Extent, Sequence[Put]], Extent]] = {
    "length": lambda e, _: replace(e, length=e.length - 1),
    "page": lambda e, _: replace(e, page=e.page + 1),
    "owner": lambda e, records: replace(e, seal=replace(e.seal, owner=other_owner(records))),
    "nonce": lambda e, _: replace(e, seal=replace(e.seal, nonce=bytes(12))),
    "wrapped": lambda e, _: replace(e, seal=replace(e.seal, wrapped=bytes(48))),
    "another's wrapped": lambda e, records: replace(
        e, seal=replace(e.seal, wrapped=records[1][1].seal.wrapped)
    ),
    "tag": lambda e, _: replace(e, seal=replace(e.seal, tag=bytes(16))),
    "checksum as tag": lambda e, _: replace(
        e, seal=replace(e.seal, tag=xxhash.xxh3_128_digest(content(0, 1)))
    ),
    "another's seal": lambda e, records: replace(e, seal=records[1][1].seal),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_one_field_is_edited(disk: Disk, edit: Callable[[Extent, Sequence[Put]], Extent]) -> None:
    records = disk.records(1)
    first = records[0][0], edit(records[0][1], records)
    disk.rewrite(1, "acme", [first, *records[1:]])
    assert disk.outcomes(0)[0] in MISSES


def test_a_chunk_is_given_another_key(disk: Disk) -> None:
    records = disk.records(1)
    disk.rewrite(1, "acme", [(ChunkKey(key(42)), records[0][1]), *records[1:]])
    assert disk.outcomes(42) == [ReadOutcome.CORRUPT]


def test_an_old_journal_brings_no_shredded_chunk_back(disk: Disk) -> None:
    files = {kind: disk.path(1, kind).read_bytes() for kind in ("journal", "segment")}
    disk.store = open_store(disk.root, MASTER)
    assert disk.store.shred(ALICE, keep=[key(1)])
    disk.store.delete([key(0), key(2)])
    disk.store.close()
    for kind, data in files.items():
        disk.path(1, kind).write_bytes(data)
    disk.path(1, "journal").with_name("snapshot").unlink(missing_ok=True)
    assert disk.outcomes(0, 1, 2, 3) == [
        ReadOutcome.MISSING,
        ReadOutcome.OK,
        ReadOutcome.MISSING,
        ReadOutcome.OK,
    ]


def test_what_a_failed_shred_kept_the_next_one_does_not(disk: Disk) -> None:
    files = FaultyFiles()
    disk.store = open_store(disk.root, MASTER, files=files)
    files.broken = {"sync": errno.EIO}
    with pytest.raises(OSError):
        disk.store.shred(ALICE, keep=[key(0), key(1)])
    files.broken = {}
    assert disk.store.shred(ALICE, keep=[key(1)])
    assert [disk.store.contains(key(number)) for number in range(4)] == [False, True, False, True]


def test_what_a_kept_key_opens_is_one_chunk(disk: Disk) -> None:
    disk.store = open_store(disk.root, MASTER)
    disk.store.shred(ALICE, keep=[key(1)])
    disk.store.close()
    records = disk.records(1)
    kept = records[1][1].seal
    forged = [(k, replace(e, seal=replace(e.seal, nonce=kept.nonce))) for k, e in records]
    disk.rewrite(1, "acme", forged)
    assert set(disk.outcomes(0, 2)) <= MISSES
    disk.store.close()
    disk.rewrite(1, "acme", [(key(0), records[1][1]), *records[2:]])
    assert disk.outcomes(0)[0] in MISSES


def test_an_older_segment_under_a_newer_journal(disk: Disk) -> None:
    old = disk.path(2, "segment").read_bytes()
    disk.store = open_store(disk.root, MASTER)
    disk.store.delete([key(5), key(6)])
    disk.put(EVE, 5, 6)
    disk.store.close()
    (newest,) = (disk.root / "f").glob("*[!1].segment")
    newest.write_bytes(old)
    assert set(disk.outcomes(5, 6)) <= MISSES


def test_there_is_no_store_but_through_the_keys(disk: Disk) -> None:
    store: SsdStore = open_store(disk.root, None)
    assert not any(store.contains(key(number)) for number in range(7))
    store.close()
