"""Every policy of prefixes in the simulator's tier, with sessions that share beginnings and are
rewritten: the tier never holds more than it takes, what is in use or leased stays, no tail is left
behind, and the same happens every time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.eviction.arc import AdaptiveReplacement
from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.fixed_ttl import FixedTtl
from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.eviction.recency import Recency
from cache_tiers.eviction.s3_fifo import S3Fifo
from cache_tiers.importance import Importance
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import SessionKey
from load.simulate.chains import Chains, Session
from load.simulate.clairvoyant import Clairvoyant
from load.simulate.costs import ModelCosts
from load.simulate.model import EngineModel, Hardware
from load.simulate.tier import Tier
from load.traces import Runs, joined

CAPACITY = 24
NAMES = tuple("abcdef")


@dataclass(frozen=True)
class Turn:
    """One turn of a session, the gap before it, and what else is then in use."""

    session: str
    shared: int
    """Chunks of the text that all begin with."""
    own: int
    variant: int
    """A session's histories: another is a rewrite."""
    gap_s: int
    others_in_use: frozenset[str]


TURNS = st.lists(
    st.builds(
        Turn,
        session=st.sampled_from(NAMES),
        shared=st.integers(0, 3),
        own=st.integers(1, 8),
        variant=st.integers(0, 1),
        gap_s=st.integers(1, 400),
        others_in_use=st.frozensets(st.sampled_from(NAMES), max_size=2),
    ),
    max_size=25,
)


class Made:
    """A policy, and what it wants to be told beside."""

    def __init__(self, policy: PrefixPolicy, returns: EmpiricalReturns | None = None) -> None:
        self.policy = policy
        self.returns = returns

    def ended(self, session: SessionKey, now: float, gap_s: float) -> None:
        if self.returns is not None:
            self.returns.ended(TurnEnd(session=session, awaits=Awaits.TOOL), now)
        if isinstance(self.policy, Clairvoyant):
            self.policy.foresee(session, now + gap_s, CAPACITY)


def by_importance() -> Made:
    returns = EmpiricalReturns()
    costs = ModelCosts(EngineModel(), Hardware())
    return Made(ByImportance(Importance(returns, costs, chunk_tokens=256)), returns)


MAKERS: dict[str, Callable[[], Made]] = {
    "recency": lambda: Made(Recency()),
    "fixed time": lambda: Made(FixedTtl(300.0)),
    "arc": lambda: Made(AdaptiveReplacement(CAPACITY)),
    "s3-fifo": lambda: Made(S3Fifo(CAPACITY)),
    "importance": by_importance,
    "clairvoyant": lambda: Made(Clairvoyant()),
}


@dataclass
class Run:
    """Turns through a tier. What happened is in ``told``."""

    made: Made
    told: list[tuple[SessionKey, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chains = Chains(1)
        self.sessions = {
            SessionKey(f"t/{name}"): Session(SessionKey(f"t/{name}"), "scope") for name in NAMES
        }
        self.lists: dict[SessionKey, Runs] = dict.fromkeys(self.sessions, ())
        self.tier = Tier(0, CAPACITY, self.made.policy, self.chains, self.sessions, self.was_cut)

    def was_cut(self, session: Session, before: int, now: float) -> None:
        assert not session.locked
        assert session.present[0] <= session.claimed[0] <= before
        self.told.append((session.key, session.claimed[0]))

    def go(self, turns: list[Turn]) -> None:
        now = 0.0
        for turn in turns:
            now += turn.gap_s
            self.turn(turn, now)
            self.holds_together()

    def turn(self, turn: Turn, now: float) -> None:
        key = SessionKey(f"t/{turn.session}")
        session = self.sessions[key]
        number = NAMES.index(turn.session)
        first = 1000 * (2 * number + turn.variant + 1)
        runs = joined(((1, turn.shared),) if turn.shared else (), ((first, turn.own),))
        leased = [self.sessions[SessionKey(f"t/{name}")] for name in turn.others_in_use]
        for other in leased:
            other.locked = True
        kept = {other.key: other.claimed[0] for other in leased if other is not session}

        session.locked = True
        if self.made.returns is not None:
            self.made.returns.returned(key, now)
        self.made.policy.began(key, now)
        own, _ = self.chains.known(session, runs)
        self.tier.claim(session, min(own, session.claimed[0]), now)
        self.chains.place(session, runs)
        self.lists[key] = runs
        self.tier.share(session, now)
        chunks = self.chains.chunks(session)
        self.tier.make_room(chunks - session.claimed[0], now)
        self.tier.claim(session, chunks, now)
        session.present[0] = chunks
        assert {key: self.sessions[key].claimed[0] for key in kept} == kept

        session.locked = False
        self.made.ended(key, now, turn.gap_s)
        self.made.policy.ended(key, chunks, now)
        for other in leased:
            other.locked = False
        self.tier.make_room(0, now)

    def holds_together(self) -> None:
        blocks = set()
        for key, session in self.sessions.items():
            chain = [
                block for first, count in self.lists[key] for block in range(first, first + count)
            ]
            assert session.present[0] <= session.claimed[0] <= len(chain)
            blocks.update(tuple(chain[: n + 1]) for n in range(session.claimed[0]))
        # Every chunk that is there has all before it, and is counted once.
        assert self.tier.used == len(blocks) <= CAPACITY


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@given(turns=TURNS)
@settings(max_examples=40, deadline=None)
def test_the_tier_holds_what_it_takes(maker: Callable[[], Made], turns: list[Turn]) -> None:
    run = Run(maker())
    run.go(turns)
    again = Run(maker())
    again.go(turns)
    assert run.told == again.told
