"""The engine is polled when it wants to be, and at no other time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.hints import Hints
from cache_tiers.hints import Arriving, Hint, Poll, Pulse
from cache_tiers.types import SessionKey
from engine.fake import FakeEngine
from engine.port import CommandFailed, EngineDead, EngineError

HINT = Arriving(SessionKey("t/s"))
NEVER_S = 3600.0


class _Engine(FakeEngine):
    """Answers hints with what the test says, in order, and in the end with nothing to do."""

    def __init__(self, *pulses: float | EngineError | None) -> None:
        super().__init__()
        self.polled = asyncio.Event()
        self._pulses = list(pulses)

    async def hint(self, hint: Hint) -> Pulse:
        self.told.append(hint)
        if isinstance(hint, Poll):
            self.polled.set()
        pulse = self._pulses.pop(0) if self._pulses else None
        if isinstance(pulse, EngineError):
            raise pulse
        return Pulse(pulse)

    @property
    def polls(self) -> int:
        return sum(isinstance(hint, Poll) for hint in self.told)


@asynccontextmanager
async def _running(hints: Hints) -> AsyncIterator[None]:
    task = asyncio.create_task(hints.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _others_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_is_polled_when_it_is_due() -> None:
    engine = _Engine(0.0)
    hints = Hints(engine)
    async with _running(hints):
        assert await hints.tell(HINT)
        await engine.polled.wait()
        await _others_run()
    assert engine.told == [HINT, Poll()]


async def test_it_is_left_alone_while_it_has_nothing_to_do() -> None:
    engine = _Engine(None, NEVER_S)
    hints = Hints(engine)
    async with _running(hints):
        await hints.tell(HINT)
        await hints.tell(HINT)
        await _others_run()
    assert engine.polls == 0


@pytest.mark.parametrize("newest", [NEVER_S, None])
async def test_what_is_not_due_any_more_is_not_polled_for(newest: float | None) -> None:
    engine = _Engine(0.0, newest)
    hints = Hints(engine)
    for _ in range(2):
        await hints.tell(HINT)
    async with _running(hints):
        await _others_run()
    assert engine.polls == 0


async def test_a_sooner_time_is_heard_while_a_later_one_is_waited_for() -> None:
    engine = _Engine(NEVER_S, 0.0)
    hints = Hints(engine)
    async with _running(hints):
        await hints.tell(HINT)
        await _others_run()
        await hints.tell(HINT)
        await engine.polled.wait()


async def test_between_two_polls_there_is_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.hints.REST_S", NEVER_S)
    engine = _Engine(0.0, 0.0, 0.0)
    hints = Hints(engine)
    async with _running(hints):
        await hints.tell(HINT)
        await engine.polled.wait()
        await _others_run()
    assert engine.polls == 1


async def test_a_poll_that_fails_is_no_reason_to_poll_again() -> None:
    engine = _Engine(0.0, CommandFailed("no"), 0.0)
    hints = Hints(engine)
    async with _running(hints):
        await hints.tell(HINT)
        await engine.polled.wait()
        await _others_run()
        assert engine.polls == 1
        engine.polled.clear()
        await hints.tell(HINT)
        await engine.polled.wait()


async def test_a_failure_is_said_once_until_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure = CommandFailed("it is confused")
    hints = Hints(_Engine(failure, failure, None, failure))
    assert [await hints.tell(HINT) for _ in range(2)] == [False, False]
    assert caplog.text.count("it is confused") == 1
    assert await hints.tell(HINT)
    assert not await hints.tell(HINT)
    assert caplog.text.count("it is confused") == 2


async def test_of_a_dead_engine_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not await Hints(_Engine(EngineDead("gone"))).tell(HINT)
    assert not caplog.text


async def test_an_engine_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hangs(FakeEngine):
        async def hint(self, hint: Hint) -> Pulse:
            await asyncio.Event().wait()
            return await super().hint(hint)

    monkeypatch.setattr("app.hints.ANSWER_S", 0.0)
    with pytest.raises(EngineError):
        await Hints(Hangs()).send(HINT)
