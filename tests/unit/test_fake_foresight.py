"""The fake engine looks ahead as the real one does."""

from typing import Any

import pytest

from cache_tiers.hints import Arriving, Expect, Poll, TurnEnded
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey, Tier
from engine.fake import FakeEngine
from engine.port import TurnContext, current_turn

PROMPT = [f"w{i}" for i in range(14)]
SESSION = SessionKey("t/s")
AWAY = TurnEnded(SESSION, Awaits.TOOL, "pytest", expected_s=60.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> FakeEngine:
    return FakeEngine(clock=clock)


async def _turn(engine: FakeEngine, session: SessionKey = SESSION) -> Any:
    context = TurnContext(session, "salt")
    token = current_turn.set(context)
    try:
        async for _ in engine.generate(PROMPT, 8):
            pass
    finally:
        current_turn.reset(token)
    return context.generations[0].report


async def _in_dram(engine: FakeEngine) -> int:
    return (await engine.status(SESSION)).tokens_by_tier[Tier.DRAM]


async def test_a_session_that_left_is_expected_back(engine: FakeEngine, clock: Clock) -> None:
    await _turn(engine)
    assert (await engine.status(SESSION)).back_in_s is None
    await engine.hint(AWAY)
    kv = await engine.status(SESSION)
    assert kv.back_in_s is not None
    assert kv.back_by_s is not None
    assert 0 < kv.back_in_s < kv.back_by_s
    clock.now += 10
    later = await engine.status(SESSION)
    assert later.back_in_s is not None
    assert later.back_in_s < kv.back_in_s
    await _turn(engine)
    assert (await engine.status(SESSION)).back_in_s is None


async def test_with_everything_at_hand_it_wants_no_poll(engine: FakeEngine) -> None:
    await _turn(engine)
    assert (await engine.hint(AWAY)).next_in_s is None


async def test_what_was_parked_is_fetched_before_the_session_is_back(
    engine: FakeEngine, clock: Clock
) -> None:
    await _turn(engine)
    await engine.park(SESSION)
    due = (await engine.hint(AWAY)).next_in_s
    assert due is not None
    assert 0 < due < 60
    assert (await engine.hint(Poll())).next_in_s == due
    assert await _in_dram(engine) == 0
    clock.now += due
    assert (await engine.hint(Poll())).next_in_s is None
    assert await _in_dram(engine) == 20
    report = await _turn(engine)
    assert (report.ssd, report.prefetched) == (12, 12)
    foresight = await engine.foresight()
    assert (foresight.prefetched_chunks, foresight.used_chunks) == (5, 3)
    assert foresight.gaps == 1


async def test_one_that_arrives_is_fetched_at_once(engine: FakeEngine) -> None:
    await _turn(engine)
    await engine.park(SESSION)
    await engine.hint(Arriving(SESSION))
    assert await _in_dram(engine) == 20


async def test_what_is_said_in_the_gap_counts_from_then(engine: FakeEngine, clock: Clock) -> None:
    await _turn(engine)
    await engine.hint(TurnEnded(SESSION, Awaits.PERSON))
    clock.now += 5
    await engine.hint(Expect(SESSION, 1000.0, "make"))
    kv = await engine.status(SESSION)
    assert kv.back_in_s is not None
    assert 100 < kv.back_in_s < 10_000


async def test_who_will_be_back_at_once_is_fetched_at_once(
    engine: FakeEngine, clock: Clock
) -> None:
    await _turn(engine)
    await engine.hint(TurnEnded(SESSION, Awaits.PERSON))
    await engine.park(SESSION)
    await engine.hint(Expect(SESSION, 0.0))
    clock.now += 0.05
    await engine.hint(Poll())
    assert await _in_dram(engine) == 20


async def test_a_fetch_that_nobody_asked_for_was_wasted(engine: FakeEngine) -> None:
    await _turn(engine)
    await engine.park(SESSION)
    await engine.hint(Arriving(SESSION))
    await engine.park(SESSION)
    assert (await engine.foresight()).wasted_bytes == 5 * 4096


async def test_a_session_that_is_gone_is_not_expected(engine: FakeEngine) -> None:
    await _turn(engine)
    await engine.hint(AWAY)
    await engine.drop(SESSION)
    assert (await engine.status(SESSION)).back_in_s is None
    await engine.hint(Expect(SESSION, 5.0))
    assert (await engine.status(SESSION)).back_in_s is None
