"""What chunks are worth: when a session is back, and what its chunks cost."""

import pytest

from cache_tiers.importance import Importance, loading_rate
from cache_tiers.returns.rates import return_rate
from cache_tiers.types import SessionKey
from tests.outlooks import FakeCosts, FakeReturns, Never, Sharp, Steady

CHUNK = 16


A = SessionKey("t/a")


def importance(returns: FakeReturns, costs: FakeCosts, below: int | None = None) -> Importance:
    on_ssd = None if below is None else lambda _: below
    return Importance(returns, costs, chunk_tokens=CHUNK, below=on_ssd)


@pytest.mark.parametrize("rate", [0.001, 0.1, 2.0])
def test_a_constant_hazard_is_its_own_rate(rate: float) -> None:
    assert return_rate(Steady(rate), 3.0) == pytest.approx(rate, rel=0.01)


def test_a_return_to_come_counts_for_the_time_that_is_waited_for_it() -> None:
    assert return_rate(Sharp(60), 0.0) == pytest.approx(1 / 60, rel=0.1)
    assert return_rate(Sharp(60), 50.0) == pytest.approx(1 / 10, rel=0.1)


def test_a_load_can_wait_while_the_return_is_further_off_than_it_takes() -> None:
    assert loading_rate(Steady(0.01), 5.0, 4.0) == pytest.approx(0.01, rel=0.01)
    assert loading_rate(Sharp(60), 50.0, 5.0) == 0.0
    for away_s in (54.5, 57.0, 59.0):
        assert loading_rate(Sharp(60), away_s, 5.0) > 1 / 5
    assert loading_rate(Sharp(60), 61.0, 5.0) == 0.0


def test_what_is_here_is_worth_no_less_than_what_is_loaded() -> None:
    returns = FakeReturns()
    returns.expect(A, Sharp(60))
    score = importance(returns, FakeCosts(chunk_s=0.5))
    for now in (0.0, 30.0, 54.5, 57.0, 59.0):
        worth = score.of(A, 10, now)
        assert worth.held >= worth.loading
    assert score.of(A, 10, 54.5).loading > 0.0


def test_who_never_returns_is_worth_nothing() -> None:
    assert return_rate(Never(), 10.0) == 0.0


def test_worth_is_the_rate_times_the_load_of_a_chunk() -> None:
    returns = FakeReturns()
    returns.expect(A, Steady(0.1))
    worth = importance(returns, FakeCosts(chunk_s=0.02)).of(A, 10, 5.0).held
    assert worth == pytest.approx(0.1 * 0.02, rel=0.01)


def test_where_computing_is_faster_that_is_what_counts() -> None:
    returns = FakeReturns()
    returns.expect(A, Steady(0.1))
    costs = FakeCosts(chunk_s=5.0, token_s=0.001)
    worth = importance(returns, costs).of(A, 10, 5.0).held
    assert worth == pytest.approx(0.1 * CHUNK * 0.001, rel=0.01)


def test_what_the_tier_below_lacks_is_computed_and_late_tokens_are_dearer() -> None:
    returns = FakeReturns()
    returns.expect(A, Steady(0.1))
    lowest = importance(returns, FakeCosts(token_s=1e-5, late_s=1e-6), below=0)
    short, long = lowest.of(A, 10, 5.0).held, lowest.of(A, 100, 5.0).held
    assert long > 3 * short


def test_a_return_far_off_counts_less_where_the_tier_below_can_bring_it_back_by_then() -> None:
    returns = FakeReturns()
    returns.expect(A, Sharp(100.0))
    costs = FakeCosts(chunk_s=0.01, token_s=0.01 / CHUNK)
    below, nowhere = (importance(returns, costs, below=b).of(A, 10, 50.0) for b in (10, 0))
    assert 0 < below.held < 0.5 * nowhere.held
    assert importance(returns, costs, below=10).of(A, 10, 99.8).held > 0.9 * nowhere.held


def test_the_end_that_loads_within_the_lead_is_not_needed() -> None:
    returns = FakeReturns()
    costs = FakeCosts(chunk_s=0.01, lead_s=0.07)
    assert importance(returns, costs).of(A, 10, 0.0).needed == 7
    assert importance(returns, costs).of(A, 2, 0.0).needed == 0
    assert importance(returns, costs, below=9).of(A, 10, 0.0).needed == 10


def test_nothing_is_known_of_a_session_that_is_not_away() -> None:
    assert importance(FakeReturns(), FakeCosts()).of(A, 10, 0.0).held == 0.0


def test_a_worth_is_kept_for_a_while_but_not_into_the_next_gap() -> None:
    returns = FakeReturns()
    returns.expect(A, Sharp(1000.0))
    score = importance(returns, FakeCosts())
    first = score.of(A, 10, 100.0)
    assert first.until > 100.0
    assert score.of(A, 10, first.until - 0.01) is first
    assert score.of(A, 10, first.until).held > first.held
    assert score.of(A, 20, first.until).needed == 20
    returns.expect(A, Never(), since=101.0)
    assert score.of(A, 20, 101.0).by_recency
