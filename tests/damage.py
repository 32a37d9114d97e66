"""Ways to damage a file: blindly, and with every checksum made right again afterwards, as somebody
would who knows the format but not the keys."""

import random
import struct
from collections.abc import Callable, Sequence

import xxhash

from cache_tiers.ssd import journal, snapshot_format
from cache_tiers.ssd.key_slots import SLOT_BYTES

Damage = Callable[[random.Random, bytearray, Sequence[bytes]], None]
_HUGE_FLOAT = int.from_bytes(struct.pack("<d", 1e300), "little")
_EXTREMES = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, _HUGE_FLOAT)
_FRAME = struct.Struct("<IQ")
_SNAPSHOT_HEAD_BYTES = 48
_BUDGET_BYTES = 24


def flip(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Single bits."""
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A range with one byte, or with noise."""
    at, size = chance.randrange(len(data)), chance.choice((1, 4, 16, 100, 5000))
    fill = chance.choice((b"\0", b"\xff", chance.randbytes(1)))
    size = min(size, len(data) - at)
    data[at : at + size] = fill * size if chance.random() < 0.7 else chance.randbytes(size)


def exaggerate(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A number, wherever one may be, becomes as large or as small as it can."""
    size = chance.choice((1, 2, 4, 4, 8, 8))
    at = chance.randrange(len(data))
    number = chance.choice(_EXTREMES) % 2 ** (8 * size)
    data[at : at + size] = number.to_bytes(size, "little")[: len(data) - at]


def truncate(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def extend(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data += chance.randbytes(chance.choice((1, 12, 130, 4096)))


def repeat(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A range comes twice."""
    at = chance.randrange(len(data))
    part = data[at : at + chance.choice((8, 128, 176, 4096))]
    data[at:at] = part


def drop(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A range is missing."""
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 8, 128, 176, 4096))]


def splice(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A range from another file, at the same place or elsewhere."""
    other = chance.choice(others)
    at = chance.randrange(len(data))
    there = at if chance.random() < 0.5 else chance.randrange(len(other) + 1)
    part = other[there : there + chance.choice((8, 64, 128, 176, 4096))]
    data[at : at + len(part)] = part


DAMAGES: tuple[Damage, ...] = (
    flip,
    flip,
    overwrite,
    exaggerate,
    exaggerate,
    truncate,
    extend,
    repeat,
    drop,
    splice,
)


def damaged(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """``data`` after a few of them."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if result:
            chance.choice(DAMAGES)(chance, result, others)
    return bytes(result)


# --- checksums that are right again --------------------------------------------------------------


def signed_frames(data: bytes) -> bytes:
    """Of a journal or a manifest."""
    result = bytearray(data)
    at, chain = len(journal.MAGIC), 0
    while at + _FRAME.size <= len(result):
        length, _ = _FRAME.unpack_from(result, at)
        body = result[at + _FRAME.size :][:length]
        if not body or len(body) < length:
            break
        chain = xxhash.xxh3_64_intdigest(body, chain)
        _FRAME.pack_into(result, at, length, chain)
        at += _FRAME.size + length
    return bytes(result)


def signed_snapshot(data: bytes) -> bytes:
    """The head names as many records as there is room for."""
    if len(data) <= _SNAPSHOT_HEAD_BYTES + 8:
        return data
    result = bytearray(data)
    (version,) = struct.unpack_from("<I", result, 8)
    check = xxhash.xxh3_64_intdigest(snapshot_format.MAGIC + struct.pack("<I", version))
    struct.pack_into("<I", result, 12, check & 0xFFFFFFFF)
    (segments,) = struct.unpack_from("<I", result, 40)
    end = _SNAPSHOT_HEAD_BYTES + 8 + segments * 64
    covered = bytes(result[:_SNAPSHOT_HEAD_BYTES] + result[_SNAPSHOT_HEAD_BYTES + 8 : end])
    struct.pack_into("<Q", result, _SNAPSHOT_HEAD_BYTES, xxhash.xxh3_64_intdigest(covered))
    return bytes(result)


def signed_slots(data: bytes) -> bytes:
    """Of a keyring; free slots stay free."""
    result = bytearray(data)
    for slot in range(len(result) // SLOT_BYTES):
        fields = bytes(result[slot * SLOT_BYTES :][: SLOT_BYTES - 8])
        if any(fields):
            checksum = xxhash.xxh3_64_intdigest(fields, slot)
            struct.pack_into("<Q", result, (slot + 1) * SLOT_BYTES - 8, checksum)
    return bytes(result)


def signed_budget(data: bytes) -> bytes:
    fields = data[:_BUDGET_BYTES]
    return fields + xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little") + data[32:]


def signed(name: str, data: bytes) -> bytes:
    """The checksums of a file of that name made right."""
    if name.endswith(("journal", "manifests")):
        return signed_frames(data)
    if name == "snapshot":
        return signed_snapshot(data)
    if name == "keys":
        return signed_slots(data)
    return signed_budget(data) if name == "budget" else data
