"""Outlooks are survival curves whatever was learned, and nothing that is learned breaks them."""

import itertools
import math

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey

SESSIONS = st.sampled_from([SessionKey(f"{tenant}/{n}") for tenant in "ab" for n in range(3)])
TOOLS = st.sampled_from(["", "read", "build", "x" * 500])
GAPS = st.one_of(
    st.sampled_from([0.0, 1e-9, 0.05, 1.0, 9.0, 600.0, 7 * 86_400.0, 1e9]),
    st.floats(0, 1e7, allow_nan=False),
)
SAID = st.one_of(st.none(), st.floats(1e-9, 1e9), st.sampled_from([0.0, -1.0, math.nan, math.inf]))
TIMES = (0.0, 1e-6, 0.05, 0.3, 2.0, 9.0, 10.0, 77.0, 3600.0, 86_400.0, 7 * 86_400.0, 1e9)
SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


def check(outlook: Outlook) -> None:
    """What every outlook promises."""
    survivals = [outlook.survival(time) for time in TIMES]
    assert survivals[0] == 1
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(survivals))
    for time in TIMES:
        hazard = outlook.hazard(time)
        assert 0 <= hazard < math.inf
    for away_s in TIMES:
        quantiles = [outlook.quantile(share, away_s) for share in SHARES]
        assert quantiles[0] >= away_s
        assert quantiles == sorted(quantiles)
        for share, quantile in zip(SHARES, quantiles, strict=True):
            if quantile == math.inf:
                still = outlook.survival(1e12) / max(outlook.survival(away_s), 1e-300)
                assert share == 1 or still >= (1 - share) * (1 - 1e-6)
            else:
                expected = (1 - share) * outlook.survival(away_s)
                assert math.isclose(
                    outlook.survival(quantile), expected, rel_tol=1e-6, abs_tol=1e-12
                )


class ReturnsMachine(RuleBasedStateMachine):
    """Beside it: who is away, and since when."""

    def __init__(self) -> None:
        super().__init__()
        self.returns = EmpiricalReturns()
        self.twin = EmpiricalReturns()
        self.now = 0.0
        self.away: dict[SessionKey, float] = {}
        self.came_back = 0

    @rule(
        session=SESSIONS,
        awaits=st.sampled_from(Awaits),
        tool=TOOLS,
        turn=st.integers(1, 1000),
        hour=st.integers(0, 23),
        said=SAID,
    )
    def end(
        self,
        session: SessionKey,
        awaits: Awaits,
        tool: str,
        turn: int,
        hour: int,
        said: float | None,
    ) -> None:
        end = TurnEnd(
            session=session, awaits=awaits, tool=tool, turn=turn, hour=hour, expected_s=said
        )
        for returns in (self.returns, self.twin):
            returns.ended(end, self.now)
        self.away[session] = self.now
        outlook = self.returns.outlook(session)
        assert outlook is not None
        check(outlook)

    @rule(session=SESSIONS)
    def back(self, session: SessionKey) -> None:
        for returns in (self.returns, self.twin):
            returns.returned(session, self.now)
        self.came_back += self.away.pop(session, None) is not None

    @rule(session=SESSIONS)
    def forget(self, session: SessionKey) -> None:
        for returns in (self.returns, self.twin):
            returns.forget(session, self.now)
        self.away.pop(session, None)

    @rule(gap_s=GAPS)
    def wait(self, gap_s: float) -> None:
        self.now += gap_s

    @rule(
        session=SESSIONS,
        gap_s=st.sampled_from([0.01, 3.0, 20_000.0]),
        awaits=st.sampled_from(Awaits),
    )
    def many(self, session: SessionKey, gap_s: float, awaits: Awaits) -> None:
        """Enough of a kind for a shift."""
        for turn in range(1, 41):
            self.end(session, awaits, "", turn, 0, None)
            self.wait(gap_s)
            self.back(session)

    @invariant()
    def only_those_away_are_away(self) -> None:
        for tenant in "ab":
            for n in range(3):
                session = SessionKey(f"{tenant}/{n}")
                assert self.returns.away_since(session) == self.away.get(session)
                assert (self.returns.outlook(session) is None) == (session not in self.away)

    @invariant()
    def deterministic(self) -> None:
        for session in self.away:
            own, other = self.returns.outlook(session), self.twin.outlook(session)
            assert own is not None
            assert other is not None
            assert own.quantile(0.3, 1.0) == other.quantile(0.3, 1.0)
        assert self.returns.distrusted == self.twin.distrusted

    @invariant()
    def reports_make_sense(self) -> None:
        report = self.returns.calibration()
        assert report.gaps == min(self.came_back, 200)
        assert 0 <= report.before_10 <= report.before_50 <= report.before_90 <= 1
        assert 0 <= report.distance <= 1
        assert self.returns.shifts > 0 or not self.returns.distrusted


TestReturns = ReturnsMachine.TestCase
TestReturns.settings = hypothesis_settings(max_examples=30, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.sampled_from(Awaits), GAPS), max_size=30), GAPS)
@hypothesis_settings(max_examples=40, deadline=None)
def test_what_was_away_for_long_is_expected_later(
    gaps: list[tuple[Awaits, float]], away_s: float
) -> None:
    returns, now, session = EmpiricalReturns(), 0.0, SessionKey("a/1")
    for awaits, gap_s in gaps:
        returns.ended(TurnEnd(session=session, awaits=awaits), now)
        now += gap_s
        returns.returned(session, now)
    returns.ended(TurnEnd(session=session, awaits=Awaits.TOOL), now)
    outlook = returns.outlook(session)
    assert outlook is not None
    assert outlook.quantile(0.5, away_s) >= outlook.quantile(0.5)
