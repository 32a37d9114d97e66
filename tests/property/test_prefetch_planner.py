"""Order and planner over a tier that does what they say: no thrash, no overcommitment."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.prefetch.types import Shortfall
from cache_tiers.types import SessionKey
from tests.outlooks import FakeCosts, FakeReturns, Steady

CHAINS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 30), st.floats(0.0001, 1.0)),
    min_size=1,
    max_size=12,
)


class Tier:
    """Holds leading chunks of sessions, ``capacity`` in all; fetches are over at once."""

    def __init__(self, chains: list[tuple[int, int, float]], capacity: int, lead_s: float) -> None:
        self.capacity = capacity
        self.returns = FakeReturns()
        importance = Importance(self.returns, FakeCosts(lead_s=lead_s), chunk_tokens=16)
        self.order = ByImportance(importance)
        self.planner = DeadlinePlanner(importance, self.order)
        self.chains: dict[SessionKey, int] = {}
        self.held: dict[SessionKey, int] = {}
        for number, (chunks, held, rate) in enumerate(chains):
            session = SessionKey(f"t/{number}")
            self.returns.expect(session, Steady(rate))
            self.chains[session] = chunks
            self.order.began(session, 0.0)
            self.order.ended(session, chunks, 0.0)
            self.hold(session, min(chunks, held, self.room), 0.0)

    @property
    def room(self) -> int:
        return self.capacity - sum(self.held.values())

    def hold(self, session: SessionKey, chunks: int, now: float) -> None:
        self.held[session] = chunks
        self.order.holds(session, chunks, now)

    def plan_and_fetch(self, now: float) -> int:
        """Chunks that were fetched."""
        shortfalls = [
            Shortfall(session, self.held[session], chunks)
            for session, chunks in self.chains.items()
            if self.held[session] < chunks
        ]
        fetched = 0
        for fetch in self.planner.plan(shortfalls, self.room, now).fetches:
            missing = fetch.upto - self.held[fetch.session]
            self.make_room(missing, fetch.session, now)
            assert self.room >= missing
            self.hold(fetch.session, fetch.upto, now)
            fetched += missing
        return fetched

    def make_room(self, chunks: int, coming: SessionKey, now: float) -> None:
        for cut in self.order.victims(now):
            if self.room >= chunks:
                break
            assert cut.session != coming
            here = self.held[cut.session]
            self.hold(cut.session, max(cut.keep, here - (chunks - self.room)), now)


@given(CHAINS, st.integers(1, 100), st.floats(0.0, 0.1))
@settings(deadline=None)
def test_what_is_fetched_is_there_until_something_changes(
    chains: list[tuple[int, int, float]], capacity: int, lead_s: float
) -> None:
    tier = Tier(chains, capacity, lead_s)
    tier.plan_and_fetch(1.0)
    rounds = [tier.plan_and_fetch(2.0 + number) for number in range(4)]
    assert rounds[-1] == 0
    assert tier.room >= 0


@given(CHAINS, st.integers(1, 100), st.floats(0.0, 0.1))
@settings(deadline=None)
def test_the_same_calls_give_the_same_answers(
    chains: list[tuple[int, int, float]], capacity: int, lead_s: float
) -> None:
    one, other = Tier(chains, capacity, lead_s), Tier(chains, capacity, lead_s)
    for now in (1.0, 2.0):
        assert one.plan_and_fetch(now) == other.plan_and_fetch(now)
        assert list(one.order.victims(now)) == list(other.order.victims(now))


@given(st.floats(0.001, 1.0), st.floats(0.001, 1.0), st.integers(1, 30))
@settings(deadline=None)
def test_two_sessions_never_change_places_and_back(first: float, second: float, n: int) -> None:
    """Their worths stand still; one of them has the room, and keeps it or loses it for good."""
    tier = Tier([(n, n, first), (n, 0, second)], n, 0.0)
    owners = []
    for step in range(10):
        tier.plan_and_fetch(1.0 + step)
        owners.append(max(tier.held, key=lambda session: tier.held[session]))
    assert sum(a != b for a, b in pairwise(owners)) == 0
