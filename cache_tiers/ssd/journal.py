"""The journal of one segment: which chunk is in which pages. Pure.

::

    magic (8 bytes) · frame(header) · frame(put | delete)*

A put is ``1 (u8) · page (u32) · length (u32) · owner (u64) · nonce (12) · wrapped (48) · tag (16)
· key``; a delete is ``2 (u8) · page (u32) · key``; little-endian. A page is put at most once and
deleted at most once, so a journal is bounded by its segment and never needs compaction.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.frames import FRAME_BYTES, Mark, join, split
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey

VERSION = 2
MAGIC = b"VALETSEG"
MOST_KEY_BYTES = 64
MOST_PAGES = 2**32 - 1
"""Of a segment: pages are u32 on the medium."""
TENANT_TAG_BYTES = 16
_HEADER = struct.Struct(f"<IQQQ{TENANT_TAG_BYTES}s")
_PUT = struct.Struct("<BIIQ12s48s16s")
_DELETE = struct.Struct("<BI")
_PUT_KIND, _DELETE_KIND = 1, 2

MOST_DELETE_BYTES = FRAME_BYTES + _DELETE.size + MOST_KEY_BYTES
"""What deleting one chunk adds to a journal at most."""


def put_bytes(key: ChunkKey) -> int:
    """What putting ``key`` adds to a journal."""
    return FRAME_BYTES + _PUT.size + len(key)


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment is of; one with another header is not ours to read."""

    fingerprint: str
    segment: int
    chunk_bytes: int
    tenant: bytes
    """16 bytes that stand for the tenant whose chunks these are."""

    def encode(self, version: int = VERSION) -> bytes:
        return _HEADER.pack(
            version,
            xxhash.xxh3_64_intdigest(self.fingerprint.encode()),
            self.segment,
            self.chunk_bytes,
            self.tenant,
        )


Put = tuple[ChunkKey, Extent]
"""A chunk and where it is."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal, or the end of one, says."""

    puts: list[Put]
    """Those that it does not delete again, in the order of their pages."""
    deleted: list[tuple[ChunkKey, int]]
    """Key and page of chunks that it deletes and that were put before its beginning."""
    pages: int
    """The first page behind all that it puts; 0 when it puts nothing."""
    mark: Mark
    """Where to go on writing; what is behind it is a torn tail."""


def begin(header: Header) -> tuple[bytes, Mark]:
    """A new journal's first bytes, and where to go on writing."""
    data, mark = join([header.encode()], Mark(len(MAGIC), 0))
    return MAGIC + data, mark


def puts(records: Iterable[Put], after: Mark) -> tuple[bytes, Mark]:
    """Bytes that put ``records``."""
    bodies = (
        _PUT.pack(
            _PUT_KIND,
            extent.page,
            extent.length,
            extent.seal.owner,
            extent.seal.nonce,
            extent.seal.wrapped,
            extent.seal.tag,
        )
        + key
        for key, extent in records
    )
    return join(bodies, after)


def deletes(records: Iterable[Put], after: Mark) -> tuple[bytes, Mark]:
    """Bytes that forget ``records``."""
    bodies = (_DELETE.pack(_DELETE_KIND, extent.page) + key for key, extent in records)
    return join(bodies, after)


def tenant_in(data: bytes) -> bytes | None:
    """The tenant in the header of a journal of this version; None for anything else."""
    for body, _ in split(memoryview(data), Mark(len(MAGIC), 0)):
        if data[: len(MAGIC)] == MAGIC and len(body) == _HEADER.size:
            return bytes(_HEADER.unpack(body)[4])
        break
    return None


def chunk_bytes_in(data: bytes) -> int | None:
    """The size of a chunk that the header of a journal of this version names."""
    if tenant_in(data) is None:
        return None
    body, _ = next(split(memoryview(data), Mark(len(MAGIC), 0)))
    return int(_HEADER.unpack(body)[3])


def replay(data: bytes, header: Header) -> Replay | None:
    """What the journal says up to its last whole record; None when it is not a journal of
    ``header``. Raises StoreUnusable when a newer version of the program wrote it."""
    if data[: len(MAGIC)] != MAGIC:
        return None
    first, mark = next(split(memoryview(data), Mark(len(MAGIC), 0)), (b"", Mark(0, 0)))
    if len(first) < 4:
        return None
    if (version := int.from_bytes(first[:4], "little")) > VERSION:
        raise StoreUnusable(
            f"segment {header.segment} has format {version}, this program reads {VERSION}: "
            "use the newer program, another folder, or delete this one"
        )
    if first != header.encode():
        return None
    return replay_tail(data[mark.end :], header, mark)


def replay_tail(data: bytes, header: Header, after: Mark) -> Replay:
    """As ``replay``, of the bytes from ``after.end`` on."""
    live: dict[int, Put] = {}
    deleted: list[tuple[ChunkKey, int]] = []
    pages = 0
    mark = after
    for body, behind in split(memoryview(data), Mark(0, after.chain)):
        if body[0] == _PUT_KIND and _PUT.size < len(body) <= _PUT.size + MOST_KEY_BYTES:
            _, page, length, owner, nonce, wrapped, tag = _PUT.unpack_from(body)
            extent = Extent(header.segment, page, length, Seal(owner, nonce, wrapped, tag))
            if not 0 < length <= header.chunk_bytes or page + extent.pages > MOST_PAGES:
                break
            live[page] = (ChunkKey(body[_PUT.size :]), extent)
            pages = max(pages, page + extent.pages)
        elif body[0] == _DELETE_KIND and _DELETE.size < len(body) <= _DELETE.size + MOST_KEY_BYTES:
            _, page = _DELETE.unpack_from(body)
            if live.pop(page, None) is None:
                deleted.append((ChunkKey(body[_DELETE.size :]), page))
        else:
            break
        mark = Mark(after.end + behind.end, behind.chain)
    return Replay([live[page] for page in sorted(live)], deleted, pages, mark)
