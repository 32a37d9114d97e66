"""Frames: how a journal finds the end of what was written whole.

A frame is ``length (u32) · checksum (u64) · body``, little-endian. The checksum is xxh3_64 of the
body seeded with the frame before's, so a frame is valid only behind the very frames it was written
behind: what an earlier, failed write left further on in a file can never pass for its
continuation. Pure.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

_HEAD = struct.Struct("<IQ")

FRAME_BYTES = _HEAD.size
"""What a frame adds to its body."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the next frame goes."""

    end: int
    """Offset in bytes."""
    chain: int
    """Checksum of the frame before; 0 where there is none."""


def join(bodies: Iterable[bytes], after: Mark) -> tuple[bytes, Mark]:
    """The bodies (none of them empty) as frames to write at ``after.end``, and the mark behind."""
    chain = after.chain
    parts = []
    for body in bodies:
        chain = xxhash.xxh3_64_intdigest(body, chain)
        parts.append(_HEAD.pack(len(body), chain))
        parts.append(body)
    data = b"".join(parts)
    return data, Mark(after.end + len(data), chain)


def split(data: memoryview, after: Mark) -> Iterator[tuple[bytes, Mark]]:
    """Every whole frame's body from ``after`` on, with the mark behind it, until the first that
    is not whole."""
    end, chain = after.end, after.chain
    while end + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, end)
        body = bytes(data[end + _HEAD.size : end + _HEAD.size + length])
        if not length or len(body) < length or xxhash.xxh3_64_intdigest(body, chain) != checksum:
            return
        end, chain = end + _HEAD.size + length, checksum
        yield body, Mark(end, chain)
