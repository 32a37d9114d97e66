"""Lossless compression of KV in bfloat16, for a drive that is small or wears; speed it costs.

A bfloat16 is a sign (1 bit), an exponent (8) and a mantissa (7). The exponents of KV are few and
far from equally frequent, signs and mantissas are noise: so a chunk is split into a plane of
exponents, which is compressed, and a plane of signs and mantissas, which is not. Any other bytes
come back exact too, but hardly ever pay.

Stored, little-endian: ``magic (4) · chunk's length (u64)``, then for every piece of at most
``_PIECE`` values ``length (u32) · exponents · signs and mantissas``, then the chunk's last byte if
its length is odd. Exponents are one zstd frame, or as they are where a frame would not be shorter.

Pure; any number of threads. Nearly all of the time is spent without the GIL.
"""

import struct
from collections.abc import Iterator

import numpy as np
import zstandard
from numpy.typing import NDArray

from cache_tiers.ssd.extent import pages

_MAGIC = b"VEX1"
_HEAD = struct.Struct("<4sQ")
_LENGTH = struct.Struct("<I")
_WORD = np.dtype("<u2")

_PIECE = 128 * 1024
"""Values. Their exponents fill one zstd block, and what is worked on stays in a core's cache."""

_FASTEST = zstandard.ZstdCompressionParameters(
    # Exponents have frequencies, not repetitions: of what zstd does only its Huffman coding
    # pays. The smallest table to look for repetitions in is the fastest and packs no worse.
    strategy=zstandard.STRATEGY_FAST,
    window_log=17,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=0,  # Anything else turns the Huffman coding off.
    write_content_size=True,
    write_checksum=False,
)


def compress(chunk: memoryview) -> bytes | None:
    """What to store for the contiguous ``chunk``; None unless that takes fewer pages."""
    chunk = chunk.cast("B")
    compressor = zstandard.ZstdCompressor(compression_params=_FASTEST)
    parts: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, chunk.nbytes)]
    for words in _pieces(chunk):
        exponents, rest = _split(words)
        packed: bytes | memoryview = compressor.compress(exponents)
        if len(packed) >= len(exponents):
            packed = exponents
        parts += [_LENGTH.pack(len(packed)), packed, rest]
    if chunk.nbytes % 2:
        parts.append(chunk[-1:])
    if pages(sum(map(len, parts))) >= pages(chunk.nbytes):
        return None
    return b"".join(parts)


def decompress(stored: memoryview, into: memoryview) -> bool:
    """Turn what ``compress`` made back into the chunk: both contiguous, without common memory,
    ``into`` writable and as long as the chunk.

    False for what cannot have been made of so long a chunk; ``into`` is undefined then. Whether
    the planes' bytes are the right ones is the seal's business. Never takes more memory than a
    few pieces beside the two, whatever ``stored`` says.
    """
    try:
        return _decompress(stored.cast("B"), into.cast("B"))
    except (struct.error, zstandard.ZstdError):
        return False


def _decompress(stored: memoryview, into: memoryview) -> bool:
    if _HEAD.unpack_from(stored) != (_MAGIC, into.nbytes):
        return False
    decompressor = zstandard.ZstdDecompressor(max_window_size=_PIECE)
    at = _HEAD.size
    for words in _pieces(into):
        count = len(words)
        (length,) = _LENGTH.unpack_from(stored, at)
        packed = stored[at + _LENGTH.size :][:length]
        at += _LENGTH.size + length + count
        if length > count or at > stored.nbytes:
            return False
        exponents: bytes | memoryview = packed
        if length < count:
            # zstd makes room for as much as a frame says it holds: ask first.
            if zstandard.frame_content_size(packed) != count:
                return False
            exponents = decompressor.decompress(packed, allow_extra_data=False)
            if len(exponents) != count:
                return False
        _join(exponents, stored[at - count : at], words)
    odd = into.nbytes % 2
    if stored.nbytes != at + odd:
        return False
    into[into.nbytes - odd :] = stored[at:]
    return True


def _pieces(chunk: memoryview) -> Iterator[NDArray[np.uint16]]:
    """Views of the whole words of ``chunk``."""
    words = np.frombuffer(chunk[: chunk.nbytes // 2 * 2], _WORD)
    for first in range(0, len(words), _PIECE):
        yield words[first : first + _PIECE]


def _split(words: NDArray[np.uint16]) -> tuple[memoryview, memoryview]:
    """The two planes, a byte a word each."""
    exponents = np.empty(len(words), np.uint8)
    np.right_shift(words, 7, out=exponents, casting="unsafe")
    rest = words >> 8
    rest &= 0x80
    rest |= words & 0x7F
    return exponents.data, rest.astype(np.uint8).data


def _join(exponents: bytes | memoryview, rest: memoryview, into: NDArray[np.uint16]) -> None:
    np.left_shift(np.frombuffer(exponents, np.uint8), 7, out=into, dtype=_WORD)
    # The byte twice in a word: its sign is where it belongs in the upper, its mantissa in the
    # lower copy.
    twice = np.frombuffer(rest, np.uint8) * np.uint16(0x0101)
    twice &= 0x807F
    into |= twice
