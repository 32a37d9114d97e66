"""What is foreseen meets the tiers: real DRAM region, real store, no engine; time is told."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.prefetch.types import Plan, Shortfall
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.fetches import PLANNED_AT_ONCE
from engine.core_plugin.foresight import Foresight
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import OffloadKey
from tests.integration.test_tier_manager import CHUNK, ROWS, Tiers, key

TOKENS = 128
SLOW_S = 0.05
"""Seconds a chunk, of a disk slow enough for a load to be felt."""


class World:
    """Tiers, sessions and foresight at a time of the test's choosing."""

    def __init__(self, folder: Path) -> None:
        self.tiers = Tiers(folder)
        self.manager = self.tiers.manager
        self.sessions = SessionChunks(self.manager, 1, TOKENS)
        self.costs = LearnedCosts(CHUNK)
        self.costs.tiers[Tier.SSD].add(100, 100 * SLOW_S)
        # Computing is slower still.
        self.costs.prefilled([(0, 1024)], 1024 * 0.01)
        self.now = 1000.0
        self.foresight = Foresight(
            self.manager,
            self.sessions,
            self.costs,
            tokens_per_chunk=TOKENS,
            clock=lambda: self.now,
        )

    def turn(self, name: str, numbers: range) -> tuple[SessionKey, list[ChunkKey]]:
        """A turn of a session that ends with this chain, all of it on SSD."""
        session, chain = SessionKey(f"t/{name}"), [key(n) for n in numbers]
        self.sessions.begin_use(session)
        self.foresight.request_came(session)
        for n in numbers:
            self.tiers.store([n])
            self.manager.dram.order.own([OffloadKey(key(n))], session)
        self.sessions.remember(session, None, chain, [], alone=True)
        self.foresight.request_over(session)
        return session, chain

    def away(self, session: SessionKey, expected_s: float | None = None) -> None:
        self.foresight.turn_ended(
            TurnEnd(session=session, awaits=Awaits.TOOL, tool="make", expected_s=expected_s)
        )

    def demote(self, chain: list[ChunkKey]) -> None:
        assert self.manager.dram.drop(chain) == len(chain)

    def in_dram(self, chain: list[ChunkKey]) -> int:
        return sum(self.manager.dram.has(each) for each in chain)

    def run(self, *, loads_wait: bool = False) -> None:
        """Step until nothing is on its way."""

        def step() -> bool:
            self.foresight.poll(self.now, loads_wait=loads_wait, reads=100)
            return loads_wait or not self.foresight.planning.fetches

        self.tiers.until(step)
        self.tiers.settle()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.tiers.close()


def test_an_announced_return_is_prepared_in_time_and_not_at_once(world: World) -> None:
    session, chain = world.turn("a", range(6))
    world.away(session, expected_s=600.0)
    other, others = world.turn("b", range(10, 10 + ROWS))
    world.away(other, expected_s=1200.0)
    assert world.in_dram(chain) == 0, "the other's turn has taken all of DRAM"
    world.now += 60
    world.run()
    assert world.in_dram(chain) == 0, "ten minutes are ten minutes"
    while world.now < 1000.0 + 599 and world.in_dram(chain) < len(chain):
        wake = world.foresight.next_in_s()
        assert wake is not None, "somebody has to ask again"
        world.now += max(wake, 0.05)
        world.run()
    assert world.in_dram(chain) == len(chain)
    # Earlier than a load would have to: nobody knows yet how exact announcements are here.
    assert world.now > 1000.0 + 200
    assert world.foresight.told().prefetched_chunks >= len(chain)
    assert world.in_dram(others) == ROWS - len(chain)


def test_the_first_byte_brings_a_session_up_at_once(world: World) -> None:
    session, chain = world.turn("a", range(6))
    world.away(session)
    world.demote(chain)
    world.foresight.arriving(session)
    assert world.foresight.busy
    world.run(loads_wait=False)
    assert world.in_dram(chain) == len(chain)
    world.now += 0.02
    world.foresight.asked(session)
    assert world.costs.lead_s == pytest.approx(0.02)
    assert not world.foresight.planning.found(session, 0, len(chain), world.now).before
    told = world.foresight.told()
    assert (told.prefetched_chunks, told.used_chunks, told.wasted_bytes) == (6, 6, 0)


def test_plans_wait_while_a_request_waits_for_a_load_and_go_on_a_few_at_a_time(
    world: World,
) -> None:
    session, chain = world.turn("a", range(ROWS))
    world.demote(chain)
    world.foresight.planning.fetches.follow([(session, list(enumerate(chain)))])
    world.foresight.planning.fetches.advance(world.now, loads_wait=True, reads=100)
    assert world.foresight.planning.fetches.flying(session) == 0
    world.foresight.planning.fetches.advance(world.now, loads_wait=False, reads=100)
    assert 0 < world.foresight.planning.fetches.flying(session) <= PLANNED_AT_ONCE
    world.foresight.planning.fetches.follow([])
    world.run()
    arrived = world.in_dram(chain)
    assert arrived == PLANNED_AT_ONCE, "what was being read arrives, the rest was cancelled"


def test_what_nobody_asked_for_was_read_in_vain(world: World) -> None:
    session, chain = world.turn("a", range(4))
    world.away(session)
    world.demote(chain)
    world.foresight.arriving(session)
    world.run()
    world.foresight.request_over(session)
    world.turn("b", range(10, 10 + ROWS))
    assert world.foresight.told().wasted_bytes == 4 * CHUNK


def test_a_session_in_a_turn_is_not_cut_while_an_idle_one_could_be(world: World) -> None:
    idle, idles = world.turn("idle", range(4))
    world.away(idle)
    busy = SessionKey("t/busy")
    _, chain = world.turn("busy", range(10, 14))
    world.foresight.request_came(busy)
    world.turn("new", range(20, 23))
    assert world.in_dram(chain) == 4
    assert world.in_dram(idles) == 1


def test_nothing_is_known_of_a_session_that_is_not_away(world: World) -> None:
    session, _ = world.turn("a", range(3))
    assert world.foresight.back(session) == (None, None)
    world.away(session, expected_s=30.0)
    median, most = world.foresight.back(session)
    assert median is not None
    assert most is not None
    assert 10 < median < 60 < 10 * most
    world.foresight.expect(session, 300.0, "")
    longer, _ = world.foresight.back(session)
    assert longer is not None
    assert longer > median
    world.foresight.forget(session)
    assert world.foresight.back(session) == (None, None)
    world.foresight.expect(session, 300.0, "")
    assert world.foresight.back(session) == (None, None)


def test_a_parked_session_stays_down_until_it_arrives_or_its_client_says_when(world: World) -> None:
    session, chain = world.turn("a", range(6))
    world.away(session)
    world.demote(chain)
    world.foresight.parked(session)
    world.now += 1
    world.run()
    assert world.in_dram(chain) == 0, "there is room, but somebody wanted it"
    world.foresight.expect(session, 2.0, "")
    world.now += 1
    world.run()
    assert world.in_dram(chain) == len(chain)


def test_a_request_that_is_refused_after_its_first_byte_ends_no_gap(world: World) -> None:
    session, _ = world.turn("a", range(3))
    world.away(session, expected_s=30.0)
    world.foresight.arriving(session)
    assert world.foresight.back(session) != (None, None)
    world.now += 1
    world.foresight.request_came(session)
    assert world.foresight.back(session) == (None, None)


def test_urgent_reads_leave_room_and_the_disk_to_others(world: World) -> None:
    session, chain = world.turn("a", range(ROWS))
    world.away(session)
    world.demote(chain)
    fetches = world.foresight.planning.fetches
    world.foresight.arriving(session)
    fetches.advance(world.now, loads_wait=True, reads=0)
    assert fetches.flying(session) == 0, "loads have all that the disk gives in time"
    fetches.advance(world.now, loads_wait=True, reads=2)
    assert fetches.flying(session) == 2
    world.run()
    assert world.in_dram(chain) == ROWS * 3 // 4
    assert world.in_dram(chain[: ROWS * 3 // 4]) == ROWS * 3 // 4, "the beginning, not the end"


def test_what_is_behind_a_hole_stays_where_it_is(world: World) -> None:
    session, chain = world.turn("a", range(6))
    world.away(session)
    world.demote(chain)
    world.manager.ssd.store.delete([chain[2]])
    world.foresight.arriving(session)
    world.run()
    assert [world.manager.dram.has(each) for each in chain] == [True] * 2 + [False] * 4
    plans = world.foresight.told().prefetched_chunks
    world.now += 5
    world.run()
    assert world.foresight.told().prefetched_chunks == plans, "asking again would end there again"
    assert world.foresight.planning.take_failure(session) is MissReason.EVICTED


def test_what_comes_for_a_session_that_is_gone_goes_too(world: World) -> None:
    session, chain = world.turn("a", range(4))
    world.away(session)
    world.demote(chain)
    world.foresight.arriving(session)
    world.foresight.planning.fetches.advance(world.now, loads_wait=False, reads=100)
    assert world.foresight.planning.fetches.flying(session) == 4
    world.sessions.forget(session)
    world.foresight.forget(session)
    world.run()
    assert world.in_dram(chain) == 0


def test_a_late_chunk_counts_as_late_alone(world: World) -> None:
    session, chain = world.turn("a", range(4))
    world.away(session)
    world.demote(chain)
    world.foresight.arriving(session)
    world.foresight.planning.fetches.advance(world.now, loads_wait=False, reads=100)
    asked_at = time.monotonic()
    world.foresight.planning.found(session, 0, 0, asked_at)
    world.run()
    told = world.foresight.told()
    assert (told.late_chunks, told.prefetched_chunks, told.used_chunks) == (4, 0, 0)
    assert 0 < world.foresight.planning.brought().late_s <= time.monotonic() - asked_at


def test_what_only_dram_has_is_worth_what_it_costs_to_compute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what a write budget withheld from SSD."""
    session, chain = world.turn("a", range(6))
    world.away(session)
    worth = world.foresight.planning.dram.importance.of(session, len(chain), world.now)
    assert world.sessions.on_ssd(session) == len(chain)
    monkeypatch.setattr(world.tiers.ssd, "contains", lambda key: key in chain[:4])
    assert world.sessions.on_ssd(session) == 4
    world.now += 11
    dearer = world.foresight.planning.dram.importance.of(session, len(chain), world.now)
    assert worth.held > 0
    assert dearer.needed == len(chain)
    computed_s = world.costs.compute_s(4 * TOKENS, 6 * TOKENS)
    loaded_s = world.costs.load_s(6)
    assert computed_s > 4 * loaded_s
    assert dearer.held > 2 * worth.held


def test_what_a_forgotten_session_shared_is_cut_as_the_others_chains(world: World) -> None:
    parent, chain = world.turn("parent", range(6))
    world.away(parent)
    child = SessionKey("t/child")
    world.sessions.fork(parent, child, 4 * TOKENS)
    world.turn("child", range(4))
    world.away(child)
    world.sessions.forget(child)
    world.foresight.forget(child)
    assert world.manager.dram.order.held(parent) == 6
    assert world.manager.dram.order.loose == 0
    world.turn("new", range(20, 20 + ROWS - 4))
    assert [world.manager.dram.has(each) for each in chain] == [True] * 4 + [False] * 2


def test_a_chain_that_others_share_is_short_of_nothing_that_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, numbers in (("a", range(4)), ("b", range(5))):
        session, _ = world.turn(name, numbers)
        world.away(session)
    asked: list[Shortfall] = []
    planner = world.foresight.planning.dram.planner
    plan = type(planner).plan

    def watched(self: object, short: Iterable[Shortfall], room: int, now: float) -> Plan:
        asked.extend(short)
        return plan(planner, asked, room, now)

    monkeypatch.setattr(type(planner), "plan", watched)
    world.foresight.poll(world.now, loads_wait=False, reads=100)
    assert asked == []
    world.demote([key(n) for n in (3, 4)])
    world.now += 1.0
    world.away(SessionKey("t/b"))
    world.foresight.poll(world.now, loads_wait=False, reads=100)
    assert {(each.session, each.here, each.chunks) for each in asked} == {
        ("t/a", 3, 4),
        ("t/b", 3, 5),
    }


def test_a_tool_that_is_named_in_the_gap_is_what_it_waits_for(world: World) -> None:
    medians = []
    for name, tool in (("a", ""), ("b", "pytest")):
        session, _ = world.turn(name, range(3))
        world.foresight.turn_ended(TurnEnd(session=session, awaits=Awaits.PERSON))
        world.foresight.expect(session, None, tool)
        medians.append(world.foresight.back(session)[0])
    person, with_tool = medians
    assert person is not None
    assert with_tool is not None
    assert with_tool < person / 5


def test_what_does_not_fit_is_not_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = world.turn("a", range(3))
    world.away(session)
    assert world.foresight.back(session)[0] is not None
    monkeypatch.setattr(world.foresight.returns, "trusts", lambda session: False)
    assert world.foresight.back(session) == (None, None)
