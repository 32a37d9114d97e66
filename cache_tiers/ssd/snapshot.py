"""The snapshot: what all journals of one folder say together, sorted, not parsed.

Only its head and its table of segments are checked at start (see ``snapshot_format``): a damaged
record is a chunk that is not found, or one that does not open. Every number in the file is checked
when it is used.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.extent import PAGE_BYTES, Extent, Seal, pages
from cache_tiers.ssd.files import Files, opened, read_fully, remove_if_there, write_fully
from cache_tiers.ssd.journal import Put
from cache_tiers.ssd.snapshot_format import RECORD, RECORDS, Layout, SegmentSummary, decode, encode
from cache_tiers.types import ChunkKey

_WORDS = RECORD.size // 8
"""Of 8 bytes, in a record. The first is the hash, the second the owner."""
_NONCE = slice(96, 108)
_PLACE = struct.Struct("<16xIIII64s")
"""Of a record: segment, page, length, the key's length, key."""
_MOST_IN_BUCKET = 64
"""Records of one bucket that a lookup looks at: more than chance ever puts there."""
_RECORDS_AT_A_TIME = 16_384


class Snapshot:
    """Immutable; any thread. A chunk goes by the number of its record."""

    def __init__(
        self, data: memoryview, chunk_bytes: int, segments: Mapping[int, SegmentSummary]
    ) -> None:
        """``data``: a whole file that ``decode`` took, which gave ``segments``."""
        self.segments = segments
        self._chunk_bytes = chunk_bytes
        self._count = sum(summary.count for summary in segments.values())
        layout = Layout(len(segments), self._count)
        self._records = data[layout.records_at : layout.order_at]
        self._words = self._records.cast("Q")
        self._order = data[layout.order_at : layout.starts_at].cast("I")
        self._starts = data[layout.starts_at :].cast("I")
        self._shift = 64 - layout.bucket_bits

    @classmethod
    def empty(cls) -> "Snapshot":
        """One of no chunks."""
        return cls(memoryview(bytes(Layout(0, 0).bytes)), 0, {})

    @classmethod
    def open(
        cls, files: Files, path: Path, fingerprint: str, chunk_bytes: int
    ) -> "Snapshot | None":
        """Read a file into memory: about 0.1 s a million chunks. None for one that is absent, torn,
        damaged or of something else. Raises OSError, and StoreUnusable when a newer version of the
        program wrote it."""
        try:
            # Not mapped: a medium that fails under a mapping ends the process.
            with opened(files, path, writable=False) as file:
                data = aligned(max(PAGE_BYTES, files.size(file)))
                data = data[: read_fully(files, file, [data], 0)]
        except FileNotFoundError:
            return None
        segments = decode(data, fingerprint, chunk_bytes)
        return None if segments is None else cls(data, chunk_bytes, segments)

    def __len__(self) -> int:
        """Records, damaged ones included."""
        return self._count

    def number(self, key: ChunkKey) -> int:
        """The record of ``key``, -1 when there is none."""
        digest = xxhash.xxh3_64_intdigest(key)
        bucket = digest >> self._shift
        at, end = self._starts[bucket], self._starts[bucket + 1]
        if end - at > _MOST_IN_BUCKET:
            end = at + _MOST_IN_BUCKET
        try:
            while at < end:
                number = self._order[at]
                if self._words[number * _WORDS] == digest and self._is_at(number, key):
                    return number
                at += 1
        except IndexError:
            # A damaged bucket or order names what is not there.
            return -1
        return -1

    def number_at(self, segment: int, page: int) -> int:
        """The record of the chunk at a place, -1 when there is none."""
        numbers = self.numbers_of(segment)
        at = bisect_left(numbers, page, key=self._page)
        found = at < len(numbers) and self._page(numbers[at]) == page
        return numbers[at] if found else -1

    def numbers_of(self, segment: int) -> range:
        """A segment's records, by page."""
        summary = self.segments.get(segment)
        return range(summary.first, summary.first + summary.count) if summary else range(0)

    def place(self, number: int) -> tuple[int, int]:
        """Segment and page, as the record has them."""
        segment, page, _, _, _ = _PLACE.unpack_from(self._records, number * RECORD.size)
        return segment, page

    def pages(self, number: int) -> int:
        """Pages that the chunk takes, as the record has it."""
        _, _, length, _, _ = _PLACE.unpack_from(self._records, number * RECORD.size)
        return pages(length)

    def owner(self, number: int) -> int:
        """``Seal.owner``."""
        return self._words[number * _WORDS + 1]

    def nonce(self, number: int) -> bytes:
        """``Seal.nonce``."""
        return bytes(self._records[number * RECORD.size :][_NONCE])

    def extent(self, number: int) -> Extent:
        """Where the chunk of a record is that ``number`` gave."""
        _, owner, segment, page, length, _, _, nonce, wrapped, tag = self._record(number)
        return Extent(segment, page, length, Seal(owner, nonce, wrapped, tag))

    def put(self, number: int) -> Put | None:
        """The chunk of any record; None for a damaged one."""
        digest, _, _, _, _, size, name, _, _, _ = self._record(number)
        key = ChunkKey(name[:size])
        if xxhash.xxh3_64_intdigest(key) != digest or not self._is_at(number, key):
            return None
        return key, self.extent(number)

    def records(self) -> NDArray[Any]:
        """All records (dtype RECORDS), as they are in the file."""
        return np.frombuffer(self._records, RECORDS)

    def sound(self) -> NDArray[np.bool_]:
        """For each record, whether it names a place within its segment."""
        records = self.records()
        table = self.segments.values()
        counts = [summary.count for summary in table]
        ids = np.repeat(np.array([summary.id for summary in table], np.int64), counts)
        ends = np.repeat(np.array([summary.pages for summary in table], np.int64), counts)
        page, length = records["page"].astype(np.int64), records["length"].astype(np.int64)
        sound: NDArray[np.bool_] = (
            (records["segment"] == ids)
            & (page * PAGE_BYTES + length <= ends * PAGE_BYTES)
            & (length > 0)
            & (length <= self._chunk_bytes)
        )
        return sound

    def _record(self, number: int) -> tuple[Any, ...]:
        return RECORD.unpack_from(self._records, number * RECORD.size)

    def _page(self, number: int) -> int:
        return self.place(number)[1]

    def _is_at(self, number: int, key: ChunkKey) -> bool:
        """Whether the record is of ``key`` and names a place within its segment."""
        segment, page, length, size, name = _PLACE.unpack_from(self._records, number * RECORD.size)
        summary = self.segments.get(segment)
        return (
            size > 0
            and name[:size] == key
            and summary is not None
            and summary.first <= number < summary.first + summary.count
            and 0 < length <= self._chunk_bytes
            and page * PAGE_BYTES + length <= summary.pages * PAGE_BYTES
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What a new snapshot is to hold: an old one's records that are not dead, and ``added``."""

    base: Snapshot
    dead: bytes
    """One byte a record of ``base``, 0 for those that hold."""
    added: Mapping[ChunkKey, Extent]


def write_snapshot(
    files: Files,
    path: Path,
    fingerprint: str,
    chunk_bytes: int,
    segments: Iterable[SegmentSummary],
    contents: Contents,
) -> int:
    """Write ``path`` anew, durably: a crash leaves the old or the new. Returns bytes written.

    Chunks of segments that ``segments`` does not name are left out, damaged records too. Each
    ``pages`` is raised to what the segment's chunks need. Until it is whole, the file has ``.new``
    behind its name. Raises OSError.
    """
    beside = path.with_name(path.name + ".new")
    remove_if_there(files, beside)
    written = 0
    try:
        file = files.create(beside)
        try:
            for part in _parts(fingerprint, chunk_bytes, segments, contents):
                write_fully(files, file, [part], written)
                written += part.nbytes
            files.sync(file)
        finally:
            files.close(file)
        files.replace(beside, path)
    except OSError:
        with suppress(OSError):
            remove_if_there(files, beside)
        raise
    files.sync_folder(path.parent)
    return written


def _parts(
    fingerprint: str, chunk_bytes: int, segments: Iterable[SegmentSummary], contents: Contents
) -> Iterator[memoryview]:
    """The file from its beginning to its end, in pieces."""
    old, new = contents.base.records(), _packed(contents.added)
    held = np.frombuffer(contents.dead, np.uint8) == 0
    numbers = np.flatnonzero(held & contents.base.sound())

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([old[name][numbers], new[name]])

    segment, page = column("segment"), column("page")
    summaries = sorted(segments, key=lambda summary: summary.id)
    rows = np.lexsort((page, segment))
    rows = rows[np.isin(segment[rows], [summary.id for summary in summaries])]
    taken = _pages(column("length")[rows].astype(np.int64))
    table = _shared_out(summaries, segment[rows], page[rows], taken)
    yield memoryview(encode(fingerprint, chunk_bytes, table))

    for begin in range(0, len(rows), _RECORDS_AT_A_TIME):
        some = rows[begin : begin + _RECORDS_AT_A_TIME]
        is_old = some < len(numbers)
        records = np.empty(len(some), RECORDS)
        records[is_old] = old[numbers[some[is_old]]]
        records[~is_old] = new[some[~is_old] - len(numbers)]
        yield records.view(np.uint8).data

    hashes = column("hash")[rows]
    yield np.argsort(hashes).astype("<u4").view(np.uint8).data
    bits = Layout(len(summaries), len(rows)).bucket_bits
    in_bucket = np.bincount((hashes >> np.uint64(64 - bits)).astype(np.int64), minlength=2**bits)
    starts = np.concatenate([[0], np.cumsum(in_bucket)])
    yield starts.astype("<u4").view(np.uint8).data


def _shared_out(
    summaries: list[SegmentSummary],
    segment: NDArray[Any],
    page: NDArray[Any],
    taken: NDArray[np.int64],
) -> list[SegmentSummary]:
    """The summaries with what the records say, which are given in columns and sorted."""
    ids = np.array([summary.id for summary in summaries], np.int64)
    firsts = np.searchsorted(segment, ids).tolist()
    behinds = np.searchsorted(segment, ids, side="right").tolist()
    sums = np.concatenate([[0], np.cumsum(taken)])
    ends = np.concatenate([[0], page + taken])
    return [
        replace(
            summary,
            pages=max(summary.pages, int(ends[behind]) if behind > first else 0),
            first=first,
            count=behind - first,
            chunk_pages=int(sums[behind] - sums[first]),
        )
        for summary, first, behind in zip(summaries, firsts, behinds, strict=True)
    ]


def _packed(added: Mapping[ChunkKey, Extent]) -> NDArray[Any]:
    """Records of ``added``."""
    data = bytearray(len(added) * RECORD.size)
    for at, (key, extent) in enumerate(added.items()):
        seal = extent.seal
        RECORD.pack_into(
            *(data, at * RECORD.size, xxhash.xxh3_64_intdigest(key), seal.owner),
            *(extent.segment, extent.page, extent.length, len(key), key),
            *(seal.nonce, seal.wrapped, seal.tag),
        )
    return np.frombuffer(data, RECORDS)


def _pages(length: NDArray[np.int64]) -> NDArray[np.int64]:
    """``extent.pages`` of each."""
    return -(-length // PAGE_BYTES)
