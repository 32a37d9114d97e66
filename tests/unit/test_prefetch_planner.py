"""What is fetched before anybody asks, and what goes for it."""

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.prefetch.types import Fetch, Plan, Shortfall
from cache_tiers.types import SessionKey
from tests.outlooks import FakeCosts, FakeReturns, Never, Sharp, Steady

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("t/c")


class Tier:
    """A policy and a planner over one fake of everything else."""

    def __init__(self, costs: FakeCosts | None = None) -> None:
        self.returns = FakeReturns()
        importance = Importance(self.returns, costs or FakeCosts(), chunk_tokens=16)
        self.order = ByImportance(importance)
        self.planner = DeadlinePlanner(importance, self.order)

    def idle(self, session: SessionKey, chunks: int, held: int, now: float = 0.0) -> Shortfall:
        self.order.began(session, now)
        self.order.ended(session, chunks, now)
        self.order.holds(session, held, now)
        return Shortfall(session, held, chunks)

    def cuts(self, now: float) -> list[Cut]:
        return list(self.order.victims(now))


def test_free_room_is_used_the_most_urgent_first() -> None:
    tier = Tier()
    tier.returns.expect(A, Steady(0.01))
    tier.returns.expect(B, Steady(0.1))
    shortfalls = [tier.idle(A, 10, 0), tier.idle(B, 10, 2)]
    assert tier.planner.plan(shortfalls, 12, 1.0).fetches == [Fetch(B, 10), Fetch(A, 4)]


def test_what_is_worth_clearly_less_goes_and_nothing_else() -> None:
    tier = Tier()
    tier.returns.expect(A, Steady(0.1))
    tier.returns.expect(B, Steady(0.04))
    tier.returns.expect(C, Steady(0.06))
    shortfall = tier.idle(A, 10, 0)
    tier.idle(B, 4, 4)
    tier.idle(C, 6, 6)
    assert tier.planner.plan([shortfall], 0, 1.0).fetches == [Fetch(A, 4)]
    assert tier.cuts(1.0) == [Cut(B, 0), Cut(C, 0)]


def test_who_is_not_expected_is_not_fetched() -> None:
    tier = Tier()
    tier.returns.expect(A, Never())
    plan = tier.planner.plan([tier.idle(A, 10, 0), tier.idle(B, 10, 0)], 99, 1.0)
    assert (plan.fetches, plan.next_at) == ([], None)


def test_an_announced_return_is_fetched_just_in_time() -> None:
    """It goes for one that may be back any time, and comes for the same one when it is due."""
    tier = Tier(FakeCosts(chunk_s=0.5))
    tier.returns.expect(A, Sharp(100.0))
    tier.returns.expect(B, Steady(0.1))
    tier.idle(A, 10, 10)
    tier.idle(B, 10, 10)
    assert tier.cuts(1.0)[0] == Cut(A, 0)
    tier.order.holds(A, 0, 1.0)
    shortfall = Shortfall(A, 0, 10)
    now, plan = 1.0, Plan()
    for _ in range(1000):
        plan = tier.planner.plan([shortfall], 0, now)
        if plan.fetches:
            break
        assert plan.next_at is not None
        assert plan.next_at > now
        now = plan.next_at
    assert plan.fetches == [Fetch(A, 10)]
    assert 93.2 < now < 94.0, "a load of 5 s, and a little"


def test_a_fetch_goes_on_until_the_return_and_is_cancelled_when_that_does_not_come() -> None:
    tier = Tier(FakeCosts(chunk_s=0.5))
    tier.returns.expect(A, Sharp(100.0))
    tier.returns.expect(B, Steady(0.1))
    tier.idle(A, 10, 0)
    tier.idle(B, 10, 10)
    for here, now in enumerate((94.0, 94.5, 96.0, 98.0, 99.5)):
        tier.order.holds(A, here, now)
        tier.order.holds(B, 10 - here, now)
        assert tier.planner.plan([Shortfall(A, here, 10)], 0, now).fetches == [Fetch(A, 10)]
        assert tier.cuts(now)[0] == Cut(B, 0)
    assert tier.planner.plan([Shortfall(A, 5, 10)], 0, 100.5).fetches == []
    assert tier.cuts(100.5)[0] == Cut(A, 0)


def test_one_under_way_goes_on_until_it_is_worth_less_than_what_goes_for_it() -> None:
    tier = Tier()
    tier.returns.expect(A, Steady(0.1))
    tier.returns.expect(B, Steady(0.04))
    shortfall = tier.idle(A, 10, 0)
    tier.idle(B, 10, 10)
    assert tier.planner.plan([shortfall], 0, 1.0).fetches == [Fetch(A, 10)]
    tier.returns.expect(A, Steady(0.05), since=0.5)
    assert tier.planner.plan([shortfall], 0, 2.0).fetches == [Fetch(A, 10)]
    tier.returns.expect(A, Steady(0.03), since=0.7)
    assert tier.planner.plan([shortfall], 0, 3.0).fetches == []


def test_a_chain_that_loads_within_the_lead_is_left_where_it_is() -> None:
    tier = Tier(FakeCosts(chunk_s=0.01, lead_s=0.21))
    tier.returns.expect(A, Steady(0.1))
    tier.returns.expect(B, Steady(0.1))
    short, long = tier.idle(A, 10, 0), tier.idle(B, 30, 0)
    assert tier.planner.plan([short, long], 99, 1.0).fetches == [Fetch(B, 20)]


def test_nothing_is_fetched_for_those_whose_predictions_do_not_fit() -> None:
    tier = Tier()
    tier.returns.expect(A, Steady(0.1))
    tier.returns.expect(B, Steady(0.1))
    tier.returns.distrusted = {A}
    shortfalls = [tier.idle(A, 10, 0), tier.idle(B, 10, 0)]
    assert tier.planner.plan(shortfalls, 99, 1.0).fetches == [Fetch(B, 10)]
    tier.returns.distrusted = {A, B}
    assert tier.planner.plan(shortfalls, 99, 60.0).fetches == []
