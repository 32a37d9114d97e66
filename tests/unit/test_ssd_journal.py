"""Frames and journal records."""

import pytest

from cache_tiers.ssd import journal
from cache_tiers.ssd.frames import Mark, join, split
from cache_tiers.ssd.journal import Header, Put
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey

HEADER = Header("f1", 3, 4096)
PUTS = [Put(ChunkKey(b"key%d" % i), i, bytes([i]) * 16) for i in range(4)]


def written() -> tuple[bytes, Mark]:
    data, mark = journal.begin(HEADER)
    more, mark = journal.puts(PUTS, mark)
    last, mark = journal.deletes([1], mark)
    return data + more + last, mark


def test_frames_come_back() -> None:
    data, mark = join([b"a", b"bc" * 500], Mark(0, 0))
    assert [body for body, _ in split(memoryview(data), Mark(0, 0))] == [b"a", b"bc" * 500]
    assert list(split(memoryview(data), Mark(0, 0)))[-1][1] == mark
    assert mark.end == len(data)


def test_every_torn_tail_leaves_what_is_before_it() -> None:
    bodies = [b"one", b"two", b"three"]
    data, _ = join(bodies, Mark(0, 0))
    ends = [mark.end for _, mark in split(memoryview(data), Mark(0, 0))]
    for size in range(len(data)):
        found = [body for body, _ in split(memoryview(data[:size]), Mark(0, 0))]
        assert found == bodies[: sum(end <= size for end in ends)]


def test_what_a_failed_write_left_is_no_continuation() -> None:
    first, mark = join([b"first"], Mark(0, 0))
    lost, _ = join([b"lost1", b"lost2"], mark)
    kept, _ = join([b"kept!"], mark)
    data = first + kept + lost[len(kept) :]
    assert [body for body, _ in split(memoryview(data), Mark(0, 0))] == [b"first", b"kept!"]


def test_zeros_are_no_frames() -> None:
    assert list(split(memoryview(bytes(4096)), Mark(0, 0))) == []


def test_replay() -> None:
    data, mark = written()
    said = journal.replay(data, HEADER)
    assert said is not None
    assert said.puts == {0: PUTS[0], 2: PUTS[2], 3: PUTS[3]}
    assert (said.slots, said.mark) == (4, mark)


def test_every_flipped_bit_is_noticed() -> None:
    data, _ = written()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        said = journal.replay(bytes(flipped), HEADER)
        assert said is None or said.mark.end <= at
        if said:
            assert all(PUTS[slot] == put for slot, put in said.puts.items())


@pytest.mark.parametrize(
    "other", [Header("f2", 3, 4096), Header("f1", 4, 4096), Header("f1", 3, 1)]
)
def test_another_header_is_not_ours(other: Header) -> None:
    assert journal.replay(written()[0], other) is None


def test_sizes_are_as_promised() -> None:
    start = journal.begin(HEADER)[1]
    assert len(journal.puts(PUTS[:1], start)[0]) == journal.put_bytes(PUTS[0].key)
    assert len(journal.deletes([7], start)[0]) == journal.DELETE_BYTES


def test_a_newer_version_is_said() -> None:
    frame, _ = join([HEADER.encode(99) + b"more"], Mark(len(journal.MAGIC), 0))
    with pytest.raises(StoreUnusable, match="format 99"):
        journal.replay(journal.MAGIC + frame, HEADER)
