"""Compression of KV: exact for all bytes, and unmoved by hostile ones."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.ssd.exponents import compress, decompress
from cache_tiers.ssd.extent import PAGE_BYTES

PIECE_BYTES = 2 * 128 * 1024


def kv(size: int, seed: int = 0) -> bytes:
    """Like a model's KV: normally distributed bfloat16, each channel on a scale of its own."""
    dice = np.random.default_rng(seed)
    values = dice.normal(size=size // 2 + 1) * np.resize(2.0 ** dice.normal(size=64), size // 2 + 1)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()[:size]


def packed(chunk: bytes) -> bytes:
    stored = compress(memoryview(chunk))
    assert stored is not None
    return stored


def unpacked(stored: bytes, size: int) -> bytes | None:
    into = bytearray(size)
    return bytes(into) if decompress(memoryview(stored), memoryview(into)) else None


@pytest.mark.parametrize(
    "size",
    [
        4 * PAGE_BYTES,
        400 * 1024,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        PIECE_BYTES + 2,
        3 * PIECE_BYTES + 4095,
    ],
)
def test_kv_shrinks_and_comes_back(size: int) -> None:
    chunk = kv(size)
    stored = packed(chunk)
    assert unpacked(stored, size) == chunk
    assert size / len(stored) > 1.35


def test_every_word_comes_back() -> None:
    chunk = np.arange(65536, dtype="<u2").tobytes() + bytes(100 * PAGE_BYTES)
    assert unpacked(packed(chunk), len(chunk)) == chunk


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"x",
        bytes(PAGE_BYTES),
        kv(PAGE_BYTES),
        np.random.default_rng(1).bytes(400_000),
        np.random.default_rng(2).integers(-128, 128, 400_000).astype(np.int8).tobytes(),
    ],
    ids=["nothing", "a byte", "a page of zeros", "a page", "random", "int8"],
)
def test_what_saves_no_page_is_not_compressed(chunk: bytes) -> None:
    assert compress(memoryview(chunk)) is None


def test_a_page_saved_is_enough() -> None:
    """Pieces that do not shrink are stored as they are, beside one that does."""
    noise = np.random.default_rng(3).bytes(2 * PIECE_BYTES)
    chunk = noise[:PIECE_BYTES] + bytes(3 * PAGE_BYTES) + noise[PIECE_BYTES:]
    stored = packed(chunk)
    assert len(stored) <= len(chunk) - PAGE_BYTES
    assert unpacked(stored, len(chunk)) == chunk


def test_float16_comes_back() -> None:
    chunk = np.random.default_rng(4).normal(size=300_000).astype(np.float16).tobytes()
    assert unpacked(packed(chunk), len(chunk)) == chunk


@given(
    st.binary(max_size=200),
    st.integers(0, 2 * PIECE_BYTES + 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["kv", "noise", "zeros"]),
)
def test_any_bytes_come_back_or_are_left_alone(
    start: bytes, size: int, seed: int, kind: str
) -> None:
    rest = {"kv": kv(size, seed), "noise": np.random.default_rng(seed).bytes(size)}
    chunk = start + rest.get(kind, bytes(size))
    stored = compress(memoryview(chunk))
    if stored is not None:
        assert len(stored) <= len(chunk) - 1
        assert unpacked(stored, len(chunk)) == chunk


def test_memory_at_odd_addresses() -> None:
    chunk = kv(100_001)
    stored = compress(memoryview(b"." + chunk)[1:])
    assert stored == compress(memoryview(chunk)) is not None
    into = bytearray(len(chunk) + 1)
    assert decompress(memoryview(b"." + stored)[1:], memoryview(into)[1:])
    assert into[1:] == chunk


def test_views_of_other_items_than_bytes() -> None:
    words = np.frombuffer(kv(100_000), np.uint16)
    into = np.empty(50_000, np.uint16)
    assert decompress(memoryview(packed(words.tobytes())), memoryview(into))
    assert compress(memoryview(words)) == packed(words.tobytes())
    assert (into == words).all()


CHUNK = kv(40_001, 7)
STORED = packed(CHUNK)
HEAD, LENGTH = 12, 4


def test_another_length_is_not_the_chunk() -> None:
    for size in (0, 1, len(CHUNK) - 1, len(CHUNK) + 1, len(CHUNK) - 2, 2 * len(CHUNK)):
        assert unpacked(STORED, size) is None


def test_no_byte_may_be_missing_or_too_many() -> None:
    for end in [*range(HEAD + LENGTH + 40), *range(100, len(STORED), 997), len(STORED) - 1]:
        assert unpacked(STORED[:end], len(CHUNK)) is None
    assert unpacked(STORED + b"x", len(CHUNK)) is None


@given(st.integers(0, 8 * (HEAD + LENGTH + 200) - 1))
def test_flipped_bits_raise_nothing(bit: int) -> None:
    bad = bytearray(STORED)
    bad[bit // 8] ^= 1 << bit % 8
    back = unpacked(bytes(bad), len(CHUNK))
    assert back is None or bit // 8 >= HEAD + LENGTH


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_hostile_bytes_raise_nothing(body: bytes, size: int, length: int) -> None:
    head = STORED[:4] + struct.pack("<QI", size, length)
    unpacked(body, size)
    unpacked(head + body, size)
    unpacked(head[: HEAD + LENGTH] + body + bytes(size), size)


def hostile(frame: bytes, count: int) -> bytes:
    """A well-formed shell of ``count`` words around a frame."""
    return STORED[:4] + struct.pack("<QI", 2 * count, len(frame)) + frame + bytes(count)


@pytest.mark.parametrize(
    "frame",
    [
        zstandard.ZstdCompressor().compress(bytes(20_001)),
        zstandard.ZstdCompressor().compress(bytes(19_999)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(20_000)),
        zstandard.ZstdCompressor().compress(bytes(10_000)) * 2,
        zstandard.ZstdCompressor().compress(bytes(20_000)) + b"behind",
        b"\x28\xb5\x2f\xfd\xc0\xa8" + struct.pack("<Q", 20_000) + b"\x02\x71\x02",
        struct.pack("<II", 0x184D2A50, 20_000) + bytes(18_000),
        struct.pack("<II", 0x184D2A50, 20) + bytes(20),
        b"",
    ],
    ids=[
        "longer",
        "shorter",
        "unsaid",
        "two",
        "more behind",
        "huge window",
        "torn skip",
        "skip",
        "nothing",
    ],
)
def test_a_frame_of_something_else(frame: bytes) -> None:
    assert unpacked(hostile(frame, 20_000), 40_000) is None


def test_a_frame_that_claims_to_be_huge_takes_no_memory() -> None:
    count = 20_000
    block = zstandard.ZstdCompressor().compress(bytes(count))[7:]
    claim = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**33) + block
    assert zstandard.frame_content_size(claim) == 2**33
    into = memoryview(bytearray(2 * count))
    tracemalloc.start()
    try:
        assert not decompress(memoryview(hostile(claim, count)), into)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
