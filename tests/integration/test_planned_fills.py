"""What a fill that nobody asked for was good for: real tiers; the device is a number."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.device_fill import KEEP_SHARE, OnFailed
from engine.core_plugin.planned_fills import PlannedFills
from engine.core_plugin.sessions_view import SessionChunks
from tests.integration.test_tier_manager import Tiers, key

TOKENS = 128
SESSION = SessionKey("t/a")
CHUNKS = 6


class Sessions(SessionChunks):
    """As many leading chunks are on the device as the test says."""

    there = 0

    def on_device(self, session: SessionKey) -> int:
        return self.there


class World:
    """A session whose chain is on SSD alone, and a filler that does what the test says."""

    def __init__(self, folder: Path) -> None:
        self.tiers = Tiers(folder)
        self.sessions = Sessions(self.tiers.manager, 1, TOKENS)
        self.chain: list[ChunkKey] = [key(n) for n in range(CHUNKS)]
        for n in range(CHUNKS):
            self.tiers.store([n])
        self.sessions.remember(SESSION, None, self.chain, [], alone=True)
        assert self.tiers.manager.dram.drop(self.chain) == CHUNKS
        self.refuses = False
        self.replies: list[Future[bytes]] = []
        self.failing: list[OnFailed] = []
        self.fills = PlannedFills(self.tiers.manager, self.sessions)
        self.fills.bind(self._fill)

    def _fill(
        self, session: SessionKey, upto: int, keep_share: float, failed: OnFailed
    ) -> "Future[bytes] | None":
        if self.refuses:
            return None
        self.replies.append(Future())
        self.failing.append(failed)
        return self.replies[-1]

    def start(self, upto: int = CHUNKS) -> bool:
        return self.fills.start(SESSION, upto, keep_share=KEEP_SHARE)

    def through_dram(self, numbers: range) -> None:
        """What a fill reads passes through DRAM and stays there for as long as there is room."""
        self.tiers.stream(list(numbers), window=4)

    def end(self, there: int) -> None:
        """The fill is over; so many leading chunks are on the device."""
        self.sessions.there = there
        self.replies[-1].set_result(b"")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.tiers.close()


def test_what_a_fill_brought_counts_as_what_it_was(world: World) -> None:
    assert world.start()
    assert world.fills.is_filling(SESSION)
    world.through_dram(range(CHUNKS))
    world.end(CHUNKS)
    assert world.fills.end_if_over()
    assert not world.fills.is_filling(SESSION)
    assert world.fills.found(SESSION, CHUNKS).before == Counter({Tier.SSD: CHUNKS})
    assert world.fills.tally.counts.used == CHUNKS
    assert world.fills.found(SESSION, CHUNKS).before == Counter(), "once"


def test_a_request_that_comes_before_the_next_poll_finds_it_too(world: World) -> None:
    world.start()
    world.end(CHUNKS)
    assert not world.fills.is_filling(SESSION), "nothing is left to wait for"
    assert world.fills.found(SESSION, CHUNKS).before == Counter({Tier.SSD: CHUNKS})
    assert world.fills.end_if_over(), "and plans are made anew all the same"
    assert not world.fills.end_if_over()


def test_what_came_no_further_than_dram_is_a_prefetch_until_it_is_used(world: World) -> None:
    world.start()
    world.through_dram(range(4))
    world.end(2)
    world.fills.end_if_over()
    assert world.fills.found(SESSION, 2).before == Counter({Tier.SSD: 2})
    origins = [world.tiers.manager.origins.below_device(each) for each in world.chain[:4]]
    assert origins == [Tier.DRAM, Tier.DRAM, Tier.SSD, Tier.SSD]
    assert all(world.tiers.manager.dram.has(each) for each in world.chain[:4])


def test_what_a_request_had_to_wait_for_was_late(world: World) -> None:
    world.start()
    world.end(CHUNKS)
    found = world.fills.found(SESSION, CHUNKS, at_hand=2)
    assert found == (Counter({Tier.SSD: CHUNKS}), 2)
    assert world.fills.tally.counts.late == CHUNKS - 2
    assert world.fills.tally.counts.wasted == 0


def test_an_empty_fill_brings_nothing_and_blocks_nothing(world: World) -> None:
    world.start()
    world.end(0)
    assert world.fills.end_if_over()
    assert world.fills.found(SESSION, 0).before == Counter()
    assert world.fills.tally.counts.fetched == 0
    assert world.start()


def test_one_at_a_time(world: World) -> None:
    assert world.start()
    assert not world.start()
    world.end(0)
    assert world.start(), "the one before is over"


def test_one_that_cannot_begin_now_blocks_nothing(world: World) -> None:
    world.refuses = True
    assert not world.start()
    assert not world.fills.under_way
    world.refuses = False
    assert world.start()


def test_two_fills_of_one_gap_are_counted_as_one_run(world: World) -> None:
    world.start(2)
    world.end(2)
    world.start(CHUNKS)
    world.end(5)
    assert world.fills.found(SESSION, 5).before == Counter({Tier.SSD: 5})
    assert world.fills.tally.counts.used == 5


def test_where_a_chunk_could_not_be_read_its_session_is_told_of(world: World) -> None:
    failures: list[tuple[SessionKey, MissReason]] = []
    world.fills.on_failed = lambda session, reason: failures.append((session, reason))
    world.start()
    world.failing[-1](MissReason.IO_TIMEOUT)
    assert failures == [(SESSION, MissReason.IO_TIMEOUT)]


def test_without_a_device_that_can_be_filled_nothing_is(world: World) -> None:
    fills = PlannedFills(world.tiers.manager, world.sessions)
    assert not fills.possible
    assert not fills.start(SESSION, CHUNKS, keep_share=KEEP_SHARE)
