"""A process killed at any time: what it had acknowledged is there, and nothing is wrong."""

import os
import random
import signal
from pathlib import Path

import pytest

from cache_tiers.ssd.store import SsdConfig, SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey
from tests.contract.store_faults import disk_bytes

CHUNK = 20_000
ACK_BYTES = 5


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key" + number.to_bytes(4, "big"))


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (CHUNK // 4)


def work(config: SsdConfig, first: int, acks: int) -> None:
    """Put without end, delete now and then; say ``+number`` or ``-number`` after each."""
    store = SsdStore.open(config)
    for start in range(first, first + 100_000, 5):
        numbers = range(start, start + 5)
        outcomes = store.put([key(n) for n in numbers], [memoryview(content(n)) for n in numbers])
        stored = [n for n, o in zip(numbers, outcomes, strict=True) if o is WriteOutcome.STORED]
        os.write(acks, b"".join(b"+" + n.to_bytes(4, "big") for n in stored))
        if start % 3 == 0:
            os.write(acks, b"?" + start.to_bytes(4, "big"))
            store.delete([key(start)])
            os.write(acks, b"-" + start.to_bytes(4, "big"))


def run_and_kill(config: SsdConfig, first: int, after_acks: int) -> list[tuple[str, int]]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(config, first, writer)
        finally:
            os._exit(1)
    os.close(writer)
    said = b""
    try:
        while len(said) < after_acks * ACK_BYTES and (more := os.read(reader, ACK_BYTES)):
            said += more
        os.kill(child, signal.SIGKILL)
        while more := os.read(reader, 4096):
            said += more
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    assert len(said) >= after_acks * ACK_BYTES
    whole = [said[i : i + ACK_BYTES] for i in range(0, len(said) - ACK_BYTES + 1, ACK_BYTES)]
    return [(chr(ack[0]), int.from_bytes(ack[1:], "big")) for ack in whole]


@pytest.mark.parametrize("limit", [400 * 2**20, 60 * CHUNK], ids=["roomy", "evicting"])
def test_thirty_kills(tmp_path: Path, limit: int) -> None:
    config = SsdConfig(tmp_path / "root", "f", CHUNK, limit, segment_bytes=20 * CHUNK)
    chance = random.Random(limit)
    held: set[int] = set()
    deleted: set[int] = set()
    evicted = 0
    for round_ in range(15):
        first = round_ * 100_000
        for sign, number in run_and_kill(config, first, chance.randrange(60)):
            if sign == "+":
                held.add(number)
            else:
                held.discard(number)
            if sign == "-":
                deleted.add(number)
        assert disk_bytes(config.root) <= limit
        store = SsdStore.open(config)
        assert not any(store.contains(key(number)) for number in deleted)
        buffer = memoryview(bytearray(CHUNK))
        for number in sorted(held):
            outcome = store.get([key(number)], [buffer])[0]
            if outcome is ReadOutcome.OK:
                assert buffer == content(number)
            else:
                assert limit < 2**27, "an acknowledged chunk is gone"
                assert outcome is ReadOutcome.MISSING
                evicted += 1
        assert store.put([key(first + 99_999)], [memoryview(content(first + 99_999))]) == [
            WriteOutcome.STORED
        ]
        held.add(first + 99_999)
        assert store.stats().corrupt_chunks == 0
        store.close()
    assert (evicted > 0) == (limit < 2**27)
