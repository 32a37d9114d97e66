"""The bytes of a snapshot file. Pure.

::

    head       magic (8) · version (u32) · its check (u32) · fingerprint (16) · chunk_bytes (u64)
               · segments (u32) · records (u32) · xxh3_64 of the head so far and the table (u64)
    table      64 bytes a segment, by id
    records    from the next page on: 176 bytes a chunk, by segment and page
    order      u32 a chunk: numbers of records, by the hash of their keys
    starts     u32 a bucket of hashes, and one more: where in ``order`` the bucket begins

Little-endian. A bucket is the hashes that begin with the same bits, about one record's worth, so a
lookup is a hash, a bucket and a comparison.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash

from cache_tiers.ssd.extent import page_bytes
from cache_tiers.ssd.frames import Mark
from cache_tiers.store import StoreUnusable

VERSION = 1
MAGIC = b"VALETMAP"
_FORMAT = struct.Struct("<8sI")
_HEAD = struct.Struct("<8sII16sQIIQ")
_SEGMENT = struct.Struct("<I16sQQIdIIQ")
_CHECKSUM_BYTES = 8

RECORD = struct.Struct("<QQIIII64s12s48s16s4x")
"""Hash of the key, owner, segment, page, length, the key's length, key, nonce, wrapped, tag. What a
lookup compares is together."""
RECORDS = np.dtype(
    [
        *(("hash", "<u8"), ("owner", "<u8")),
        *(("segment", "<u4"), ("page", "<u4"), ("length", "<u4"), ("key_bytes", "<u4")),
        *(("key", "V64"), ("nonce", "V12"), ("wrapped", "V48"), ("tag", "V16"), ("unused", "V4")),
    ]
)


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What a snapshot knows of one segment."""

    id: int
    tenant: bytes
    """16 bytes that stand for its tenant."""
    mark: Mark
    """How far its journal is covered."""
    pages: int
    """The first free page."""
    last_used: float
    """Seconds since the epoch."""
    first: int = 0
    """Number of its first record. This and what follows is filled in when it is written."""
    count: int = 0
    """Its records."""
    chunk_pages: int = 0
    """Pages that their chunks take."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in the file what begins, in bytes."""

    segments: int
    records: int

    @property
    def records_at(self) -> int:
        return page_bytes(_HEAD.size + self.segments * _SEGMENT.size)

    @property
    def order_at(self) -> int:
        return self.records_at + self.records * RECORD.size

    @property
    def starts_at(self) -> int:
        return self.order_at + 4 * self.records

    @property
    def bucket_bits(self) -> int:
        """As many first bits of a hash are its bucket's number."""
        return max(1, self.records.bit_length())

    @property
    def bytes(self) -> int:
        """The whole file."""
        return self.starts_at + 4 * ((1 << self.bucket_bits) + 1)


def encode(fingerprint: str, chunk_bytes: int, segments: Iterable[SegmentSummary]) -> bytes:
    """Everything before the records, of segments that are sorted and share out the records."""
    summaries = list(segments)
    table = b"".join(
        _SEGMENT.pack(
            *(summary.id, summary.tenant, summary.mark.end, summary.mark.chain, summary.pages),
            *(summary.last_used, summary.first, summary.count, summary.chunk_pages),
        )
        for summary in summaries
    )
    layout = Layout(len(summaries), sum(summary.count for summary in summaries))
    head = _HEAD.pack(
        *(MAGIC, VERSION, _check(VERSION), _identity(fingerprint), chunk_bytes),
        *(layout.segments, layout.records, 0),
    )[:-_CHECKSUM_BYTES]
    checksum = xxhash.xxh3_64_intdigest(head + table).to_bytes(_CHECKSUM_BYTES, "little")
    return (head + checksum + table).ljust(layout.records_at, b"\0")


def decode(
    data: memoryview, fingerprint: str, chunk_bytes: int
) -> dict[int, SegmentSummary] | None:
    """The segments, by id, of a whole file; None when it is torn, damaged or of something else.
    Raises StoreUnusable when a newer version of the program wrote it."""
    if len(data) < _HEAD.size:
        return None
    magic, version, check, identity, size, segments, records, checksum = _HEAD.unpack_from(data)
    if magic != MAGIC or check != _check(version):
        return None
    if version > VERSION:
        raise StoreUnusable(
            f"the snapshot has format {version}, this program reads {VERSION}: "
            "use the newer program, another folder, or delete this one"
        )
    if (version, identity, size) != (VERSION, _identity(fingerprint), chunk_bytes):
        return None
    if len(data) != Layout(segments, records).bytes:
        return None
    table = data[_HEAD.size : _HEAD.size + segments * _SEGMENT.size]
    if xxhash.xxh3_64_intdigest(bytes(data[: _HEAD.size - _CHECKSUM_BYTES]) + table) != checksum:
        return None
    return _decode_table(table, records)


def _decode_table(table: memoryview, records: int) -> dict[int, SegmentSummary] | None:
    """None when the segments do not share out the records."""
    found: dict[int, SegmentSummary] = {}
    total, last = 0, -1
    for id_, tenant, end, chain, pages, used, first, count, taken in _SEGMENT.iter_unpack(table):
        if id_ <= last or first != total or not math.isfinite(used):
            return None
        last, total = id_, total + count
        mark = Mark(end, chain)
        found[id_] = SegmentSummary(id_, tenant, mark, pages, used, first, count, taken)
    return found if total == records else None


def _check(version: int) -> int:
    """Tells a newer version from a damaged one."""
    return xxhash.xxh3_64_intdigest(_FORMAT.pack(MAGIC, version)) & 0xFFFFFFFF


def _identity(fingerprint: str) -> bytes:
    return xxhash.xxh3_128_digest(fingerprint.encode())
