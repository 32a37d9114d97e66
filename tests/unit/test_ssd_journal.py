"""Frames and journal records."""

import pytest

from cache_tiers.ssd import journal
from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.frames import Mark, join, split
from cache_tiers.ssd.journal import MOST_PAGES, Header, Put
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey

TENANT = bytes(range(16))
HEADER = Header("f1", 3, 8000, TENANT)


def put(i: int, page: int, length: int = 8000) -> Put:
    seal = Seal(i, bytes([i]) * 12, bytes([i + 1]) * 48, bytes([i + 2]) * 16)
    return ChunkKey(b"key%d" % i), Extent(3, page, length, seal)


PUTS = [put(i, 2 * i) for i in range(4)]


def written() -> tuple[bytes, Mark]:
    data, mark = journal.begin(HEADER)
    more, mark = journal.puts(PUTS, mark)
    last, mark = journal.deletes([PUTS[1]], mark)
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
    assert said.puts == [PUTS[0], PUTS[2], PUTS[3]]
    assert (said.deleted, said.pages, said.mark) == ([], 8, mark)


def test_the_end_alone_is_replayed_as_a_whole() -> None:
    """From every record's end on; a delete of what was put before is told."""
    data, mark = written()
    first, at = next(split(memoryview(data), Mark(len(journal.MAGIC), 0)))
    assert first == HEADER.encode()
    for count in range(5):
        said = journal.replay_tail(data[at.end :], HEADER, at)
        assert said.puts == [p for i, p in enumerate(PUTS) if i >= count and i != 1]
        assert said.deleted == ([(PUTS[1][0], 2)] if count > 1 else [])
        assert said.mark == mark
        at = _after(data, at)


def _after(data: bytes, at: Mark) -> Mark:
    _, behind = next(split(memoryview(data[at.end :]), Mark(0, at.chain)))
    return Mark(at.end + behind.end, behind.chain)


@pytest.mark.parametrize("odd", [put(9, 8, 0), put(9, 8, 8001), put(9, MOST_PAGES - 1)])
def test_what_cannot_be_a_chunk_ends_the_journal(odd: Put) -> None:
    data, mark = written()
    more, behind = journal.puts([odd], mark)
    further, _ = journal.puts([put(10, 8)], behind)
    said = journal.replay(data + more + further, HEADER)
    assert said is not None
    assert (len(said.puts), said.mark) == (3, mark)


def test_the_header_says_whose_it_is() -> None:
    data, _ = written()
    assert journal.tenant_in(data) == TENANT
    assert journal.tenant_in(data[:40]) is None
    assert journal.tenant_in(b"x" + data[1:]) is None


def test_every_flipped_bit_is_noticed() -> None:
    data, _ = written()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        said = journal.replay(bytes(flipped), HEADER)
        assert said is None or said.mark.end <= at
        if said:
            assert all(found in PUTS for found in said.puts)


@pytest.mark.parametrize(
    "other",
    [
        Header("f2", 3, 8000, TENANT),
        Header("f1", 4, 8000, TENANT),
        Header("f1", 3, 1, TENANT),
        Header("f1", 3, 8000, bytes(16)),
    ],
)
def test_another_header_is_not_ours(other: Header) -> None:
    assert journal.replay(written()[0], other) is None


def test_sizes_are_as_promised() -> None:
    start = journal.begin(HEADER)[1]
    assert len(journal.puts(PUTS[:1], start)[0]) == journal.put_bytes(PUTS[0][0])
    assert len(journal.deletes(PUTS[:1], start)[0]) <= journal.MOST_DELETE_BYTES


def test_a_newer_version_is_said() -> None:
    frame, _ = join([HEADER.encode(99) + b"more"], Mark(len(journal.MAGIC), 0))
    with pytest.raises(StoreUnusable, match="format 99"):
        journal.replay(journal.MAGIC + frame, HEADER)
