"""The journal of one segment: which chunk is in which slot. Pure.

::

    magic (8 bytes) · frame(header) · frame(put | delete)*

A put is ``1 (u8) · slot (u32) · xxh3_128 of the chunk (16 bytes) · key``; a delete is
``2 (u8) · slot (u32)``; little-endian. A slot is put at most once and deleted at most once, so a
journal is bounded by its segment and never needs compaction.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from cache_tiers.ssd.frames import FRAME_BYTES, Mark, join, split
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey

VERSION = 1
MAGIC = b"VALETSEG"
_HEADER = struct.Struct("<IQQQ")
_PUT = struct.Struct("<BI16s")
_DELETE = struct.Struct("<BI")
_PUT_KIND, _DELETE_KIND = 1, 2

DELETE_BYTES = FRAME_BYTES + _DELETE.size
"""What deleting one chunk adds to a journal."""


def put_bytes(key: ChunkKey) -> int:
    """What putting ``key`` adds to a journal."""
    return FRAME_BYTES + _PUT.size + len(key)


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment is of; one with another header is not ours to read."""

    fingerprint: str
    segment: int
    chunk_bytes: int

    def encode(self, version: int = VERSION) -> bytes:
        return _HEADER.pack(
            version,
            xxhash.xxh3_64_intdigest(self.fingerprint.encode()),
            self.segment,
            self.chunk_bytes,
        )


@dataclass(frozen=True, slots=True)
class Put:
    """A chunk and the slot it is in; ``digest`` is the xxh3_128 of its bytes."""

    key: ChunkKey
    slot: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal says."""

    puts: dict[int, Put]
    """By slot; deleted ones left out."""
    slots: int
    """Slots ever used, deleted ones included: the first free one."""
    mark: Mark
    """Where to go on writing; what is behind it is a torn tail."""


def begin(header: Header) -> tuple[bytes, Mark]:
    """A new journal's first bytes, and where to go on writing."""
    data, mark = join([header.encode()], Mark(len(MAGIC), 0))
    return MAGIC + data, mark


def puts(records: Iterable[Put], after: Mark) -> tuple[bytes, Mark]:
    """Bytes that add chunks."""
    bodies = (_PUT.pack(_PUT_KIND, put.slot, put.digest) + put.key for put in records)
    return join(bodies, after)


def deletes(slots: Iterable[int], after: Mark) -> tuple[bytes, Mark]:
    """Bytes that forget the chunks in ``slots``."""
    return join((_DELETE.pack(_DELETE_KIND, slot) for slot in slots), after)


def replay(data: bytes, header: Header) -> Replay | None:
    """What the journal says up to its last whole record; None when it is not a journal of
    ``header``. Raises StoreUnusable when a newer version of the program wrote it."""
    if data[: len(MAGIC)] != MAGIC:
        return None
    frames = split(memoryview(data), Mark(len(MAGIC), 0))
    first, mark = next(frames, (b"", Mark(0, 0)))
    if len(first) < 4:
        return None
    if (version := int.from_bytes(first[:4], "little")) > VERSION:
        raise StoreUnusable(
            f"segment {header.segment} has format {version}, this program reads {VERSION}: "
            "use the newer program, another folder, or delete this one"
        )
    if first != header.encode():
        return None
    live: dict[int, Put] = {}
    slots = 0
    for body, behind in frames:
        if body[0] == _PUT_KIND and len(body) > _PUT.size:
            _, slot, digest = _PUT.unpack_from(body)
            live[slot] = Put(ChunkKey(body[_PUT.size :]), slot, digest)
            slots = max(slots, slot + 1)
        elif body[0] == _DELETE_KIND and len(body) == _DELETE.size:
            live.pop(_DELETE.unpack(body)[1], None)
        else:
            break
        mark = behind
    return Replay(live, slots, mark)
