"""In which order chains are cut."""

import pytest

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.importance import Importance
from cache_tiers.types import SessionKey
from tests.contract.test_prefix_policies import Promises
from tests.outlooks import FakeCosts, FakeReturns, Sharp, Steady

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("t/c")


class TestPromises(Promises):
    @pytest.fixture
    def policy(self) -> ByImportance:
        return ByImportance(Importance(FakeReturns(), FakeCosts(lead_s=0.05), chunk_tokens=16))


def order(returns: FakeReturns, costs: FakeCosts | None = None) -> ByImportance:
    policy = ByImportance(Importance(returns, costs or FakeCosts(), chunk_tokens=16))
    for session, now in ((A, 0.0), (B, 1.0), (C, 2.0)):
        policy.began(session, now)
        policy.ended(session, 10, now)
        policy.holds(session, 10, now)
    return policy


def test_the_least_worth_goes_first_and_the_longest_unused_among_equals() -> None:
    returns = FakeReturns()
    returns.expect(A, Steady(0.1))
    assert list(order(returns).victims(3.0)) == [Cut(B, 0), Cut(C, 0), Cut(A, 0)]


def test_ends_that_load_within_the_lead_go_before_anything_else() -> None:
    returns = FakeReturns()
    returns.expect(A, Steady(0.1))
    policy = order(returns, FakeCosts(chunk_s=0.01, lead_s=0.07))
    policy.holds(C, 5, 3.0)
    assert list(policy.victims(3.0)) == [
        *(Cut(B, 7), Cut(A, 7)),
        *(Cut(B, 0), Cut(C, 0), Cut(A, 0)),
    ]


def test_chains_that_load_within_the_lead_go_whole() -> None:
    policy = order(FakeReturns(), FakeCosts(chunk_s=0.01, lead_s=1.0))
    assert list(policy.victims(3.0)) == [Cut(A, 0), Cut(B, 0), Cut(C, 0)]


def test_what_has_a_turn_under_way_or_holds_nothing_does_not_go() -> None:
    policy = order(FakeReturns())
    policy.began(A, 3.0)
    policy.holds(B, 0, 3.0)
    assert list(policy.victims(4.0)) == [Cut(C, 0)]
    policy.forget(C)
    assert list(policy.victims(5.0)) == []


def test_recency_decides_about_those_whose_predictions_do_not_fit() -> None:
    returns = FakeReturns()
    for session, since in ((A, 0.0), (B, 1.0), (C, 2.0)):
        returns.expect(session, Sharp(since + 3.0), since)
    assert next(iter(order(returns).victims(300.0))).session is A
    returns.expect(A, Steady(0.9))
    returns.distrusted = {A, B, C}
    assert list(order(returns).victims(300.0)) == [Cut(A, 0), Cut(B, 0), Cut(C, 0)]
    returns.expect(B, Steady(0.9), 1.0)
    returns.distrusted = {A, C}
    assert list(order(returns).victims(300.0)) == [Cut(A, 0), Cut(C, 0), Cut(B, 0)]
    returns.expect(B, Steady(1e-9), 1.0)
    assert list(order(returns).victims(300.0)) == [Cut(B, 0), Cut(A, 0), Cut(C, 0)]


def test_a_rate_is_worked_out_once_for_many_calls() -> None:
    asked = []

    class Counted(Steady):
        def hazard(self, away_s: float) -> float:
            asked.append(away_s)
            return self.rate

    returns = FakeReturns()
    returns.expect(A, Counted(0.01))
    policy = order(returns)
    for call in range(10):
        list(policy.victims(10.0 + call / 100))
    assert len(asked) == 1


def test_what_is_overdue_by_all_that_is_known_goes_by_recency() -> None:
    """As a session of which nothing is known: an announcement that did not hold is no reason to
    lose what has just been used."""
    returns = FakeReturns()
    returns.expect(B, Sharp(1.0), 1.0)
    assert list(order(returns).victims(3.0)) == [Cut(A, 0), Cut(B, 0), Cut(C, 0)]


def test_who_has_nothing_here_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_tiers.eviction.by_importance._MOST_EMPTY", 2)
    returns = FakeReturns()
    policy = order(returns)
    for session in (A, B, C):
        policy.holds(session, 0, 3.0)
    assert list(policy.victims(4.0)) == []
    assert (len(policy._here), len(policy._empty)) == (0, 2)
    policy.holds(C, 3, 5.0)
    policy.holds(A, 3, 5.0)
    assert list(policy.victims(6.0)) == [Cut(A, 0), Cut(C, 0)]
