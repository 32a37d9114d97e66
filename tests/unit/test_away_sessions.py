"""For whom is planned while many are away."""

import math

import pytest

from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import SessionKey
from engine.core_plugin.away import WAKE_S, AwaySessions


def end(name: str, expected_s: float | None = None) -> TurnEnd:
    return TurnEnd(session=SessionKey(name), awaits=Awaits.TOOL, expected_s=expected_s)


class Away(AwaySessions):
    """Knows when each left."""

    def __init__(self) -> None:
        self.since: dict[SessionKey, float] = {}
        super().__init__(self.since.get)

    def left(self, end: TurnEnd, now: float) -> None:
        self.since[end.session] = now
        super().left(end, now)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    """Plans for three at most."""
    monkeypatch.setattr("engine.core_plugin.away.MOST_PLANNED_FOR", 3)
    return Away()


def test_those_that_left_last_are_planned_for(away: AwaySessions) -> None:
    for at, name in enumerate("abcd"):
        away.left(end(name), float(at))
    assert list(away.planned) == ["b", "c", "d"]
    assert away.get(SessionKey("a")) is not None
    assert away.wakes_at == math.inf
    away.left(end("b"), 5.0)
    assert list(away.planned) == ["c", "d", "b"]
    away.back(SessionKey("a"))
    assert away.get(SessionKey("a")) is None


def test_who_announced_its_return_is_planned_for_again_in_time(away: AwaySessions) -> None:
    away.left(end("a", 600.0), 10.0)
    for name in "bcd":
        away.left(end(name), 20.0)
    assert "a" not in away.planned
    assert away.wakes_at == 610.0 - WAKE_S
    assert not away.wake(away.wakes_at - 1.0)
    assert away.wake(away.wakes_at)
    assert list(away.planned) == ["c", "d", "a"]
    assert away.wakes_at == math.inf


def test_who_came_back_or_parked_is_not_woken(away: AwaySessions) -> None:
    for name in "ab":
        away.left(end(name, 600.0), 0.0)
    for name in "cdef":
        away.left(end(name), 1.0)
    away.back(SessionKey("a"))
    away.left(end("b", 900.0), 2.0)
    away.rest(SessionKey("b"))
    assert not away.wake(10_000.0)


def test_more_that_are_near_than_can_be_planned_for_do_not_take_turns(away: AwaySessions) -> None:
    for number in range(10):
        away.left(end(f"s{number}", 600.0), float(number))
    assert away.wake(600.0)
    assert len(away.planned) == 3
    assert not away.wake(600.0)
