"""When a session will be back: what is learned, from whom, and how soon."""

import math
import random
from collections.abc import Callable

import pytest

from cache_tiers.returns.classes import Classes, path_of
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.prior import GAPS, of_gaps
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey

Lengths = Callable[[random.Random], float]


def _around(median_s: float, spread: float = 0.2) -> Lengths:
    return lambda dice: dice.lognormvariate(math.log(median_s), spread)


class Agent:
    """Runs turns of sessions, one after the other, on a clock of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.returns = EmpiricalReturns()
        self.now = 1000.0
        self.dice = random.Random(seed)

    def end(
        self,
        session: str,
        *,
        awaits: Awaits = Awaits.TOOL,
        tool: str = "",
        turn: int = 1,
        hour: int = 0,
        expected_s: float | None = None,
    ) -> Outlook:
        key = SessionKey(session)
        self.returns.ended(
            TurnEnd(
                session=key, awaits=awaits, tool=tool, turn=turn, hour=hour, expected_s=expected_s
            ),
            self.now,
        )
        outlook = self.returns.outlook(key)
        assert outlook is not None
        return outlook

    def back(self, session: str, after_s: float) -> None:
        self.now += after_s
        self.returns.returned(SessionKey(session), self.now)

    def gaps(
        self,
        session: str,
        lengths: Lengths,
        count: int,
        *,
        awaits: Awaits = Awaits.TOOL,
        tool: str = "",
        hour: int = 0,
        expected_s: float | None = None,
    ) -> None:
        for turn in range(1, count + 1):
            self.end(session, awaits=awaits, tool=tool, turn=turn, hour=hour, expected_s=expected_s)
            self.back(session, lengths(self.dice))

    def median(
        self, session: str, *, awaits: Awaits = Awaits.TOOL, tool: str = "", hour: int = 0
    ) -> float:
        """Expected of a gap that begins now, which then never was."""
        median = self.end(session, awaits=awaits, tool=tool, hour=hour).quantile(0.5)
        self.returns.forget(SessionKey(session), self.now)
        return median


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_a_cold_start_is_sensible(agent: Agent) -> None:
    assert agent.median("a/1") == pytest.approx(9, rel=0.2)
    assert agent.median("a/1", awaits=Awaits.PERSON) == pytest.approx(132, rel=0.2)
    assert not agent.returns.distrusted


def test_a_session_goes_on_at_its_own_pace(agent: Agent) -> None:
    for other in range(20):
        agent.gaps(f"a/{other}", _around(30), 20)
    assert agent.median("a/new") == pytest.approx(30, rel=0.2)
    agent.gaps("a/fast", _around(1), 8)
    assert agent.median("a/fast") == pytest.approx(1, rel=0.3)
    assert agent.median("a/new") == pytest.approx(30, rel=0.3)


def test_a_session_may_change_its_pace(agent: Agent) -> None:
    agent.gaps("a/1", _around(2), 100)
    agent.gaps("a/1", _around(60), 25)
    assert agent.median("a/1") == pytest.approx(60, rel=0.3)


def test_tools_and_persons_are_apart(agent: Agent) -> None:
    agent.gaps("a/1", _around(2), 50)
    agent.gaps("a/1", _around(600), 50, awaits=Awaits.PERSON)
    assert agent.median("a/1") == pytest.approx(2, rel=0.2)
    assert agent.median("a/1", awaits=Awaits.PERSON) == pytest.approx(600, rel=0.2)


def test_a_tool_is_known_by_its_name_wherever_it_was_called(agent: Agent) -> None:
    for session in range(10):
        agent.gaps(f"a/{session}", _around(1), 10, tool="read")
        agent.gaps(f"a/{session}", _around(200), 10, tool="test")
    assert agent.median("a/new", tool="read") == pytest.approx(1, rel=0.3)
    assert agent.median("a/new", tool="test") == pytest.approx(200, rel=0.3)


def test_what_others_do_is_not_to_be_read_from_one_s_own_outlooks(agent: Agent) -> None:
    cold = agent.end("b/1", tool="test", expected_s=None)
    cold_said = agent.end("b/1", tool="test", expected_s=60)
    for tenant in ("a", "c", "d"):
        agent.gaps(f"{tenant}/1", _around(3000), 20, tool="test")
        agent.gaps(f"{tenant}/1", _around(300), 20, tool="test", expected_s=60)
    for time in (0.1, 5, 60, 3000, 40_000):
        assert agent.end("b/2", tool="test").survival(time) == cold.survival(time)
        said = agent.end("b/2", tool="test", expected_s=60)
        assert said.survival(time) == cold_said.survival(time)


def test_the_session_is_trusted_over_the_tenant(agent: Agent) -> None:
    for session in range(20):
        agent.gaps(f"a/{session}", _around(10), 20, tool="test")
        agent.gaps(f"b/{session}", _around(100), 20, tool="test")
    agent.gaps("b/own", _around(1000), 20, tool="test")
    assert agent.median("b/own", tool="test") == pytest.approx(1000, rel=0.3)
    assert agent.median("b/new", tool="test") == pytest.approx(100, rel=0.3)
    assert agent.median("a/new", tool="test") == pytest.approx(10, rel=0.3)


def test_a_tool_that_nobody_knows_goes_at_the_session_s_pace(agent: Agent) -> None:
    agent.gaps("a/1", _around(3), 20, tool="read")
    assert agent.median("a/1", tool="never called") == pytest.approx(3, rel=0.5)


def test_an_announcement_is_expected_to_hold(agent: Agent) -> None:
    outlook = agent.end("a/1", expected_s=300)
    assert outlook.quantile(0.5) == pytest.approx(300, rel=0.1)
    assert outlook.survival(60) > 0.95
    assert outlook.survival(3000) < 0.05


def test_how_well_announcements_held_is_learned_by_tool(agent: Agent) -> None:
    agent.gaps("a/1", _around(300, 0.02), 60, tool="sleep", expected_s=300)
    agent.gaps("a/1", _around(300, 1.5), 60, tool="build", expected_s=300)
    agent.gaps("a/1", _around(600, 0.02), 60, tool="late", expected_s=300)

    def middle(tool: str, expected_s: float) -> tuple[float, float]:
        """Of a session that never announced anything."""
        outlook = agent.end("a/2", tool=tool, expected_s=expected_s)
        return outlook.quantile(0.1), outlook.quantile(0.9)

    low, high = middle("sleep", 40)
    assert 40 / 1.3 < low < 40 < high < 40 * 1.3
    low, high = middle("build", 40)
    assert low < 40 / 3 < 40 * 3 < high
    low, high = middle("late", 40)
    assert 50 < low < 80 < high < 110


def test_an_announced_gap_teaches_what_to_expect_without_announcement(agent: Agent) -> None:
    agent.gaps("a/1", _around(500), 20, tool="build", expected_s=500)
    assert agent.median("a/1", tool="build") == pytest.approx(500, rel=0.3)


def test_back_at_once_is_an_announcement_too(agent: Agent) -> None:
    assert agent.end("a/1", expected_s=0.0).quantile(0.5) < 0.1


@pytest.mark.parametrize("said", [-5.0, math.nan, math.inf, -math.inf])
def test_what_cannot_be_is_not_announced(agent: Agent, said: float) -> None:
    plain = agent.end("a/1").quantile(0.5)
    assert agent.end("a/1", expected_s=said).quantile(0.5) == pytest.approx(plain, rel=0.2)


def test_the_time_of_day_counts_where_it_matters(agent: Agent) -> None:
    """Who is asked at night answers in the morning."""
    for day in range(100):
        for hour, median in ((3, 18_000.0), (15, 40.0)):
            agent.gaps(f"a/{day}-{hour}", _around(median, 0.5), 2, awaits=Awaits.PERSON, hour=hour)
    assert agent.median("a/new", awaits=Awaits.PERSON, hour=14) < 100
    assert agent.median("a/new", awaits=Awaits.PERSON, hour=2) > 5_000


def test_circumstances_that_say_nothing_cost_nothing() -> None:
    """Hours and turns at random: what is expected is what is expected without them."""
    dice = random.Random(7)
    classes = Classes(GAPS, of_gaps(Awaits.PERSON))

    def path(hour: int, turn: int) -> tuple[tuple[str, ...], ...]:
        session = SessionKey(f"a/{dice.random()}")
        return path_of(TurnEnd(session=session, awaits=Awaits.PERSON, hour=hour, turn=turn))

    for _ in range(600):
        gap_s = dice.lognormvariate(4, 1.5)
        classes.came_back(path(dice.randrange(24), dice.randint(1, 30)), GAPS.bin_of(gap_s))
    first = classes.expected(path(0, 1))
    for hour in range(0, 24, 4):
        for turn in (1, 3, 9, 40):
            assert classes.expected(path(hour, turn)) == pytest.approx(first)


def test_gaps_whose_end_is_not_known_make_longer_ones_likelier() -> None:
    known, unknown = Agent(), Agent()
    for each in (known, unknown):
        for session in range(60):
            each.gaps(f"a/{session}", _around(5), 1)
    for session in range(60):
        unknown.end(f"a/lost {session}")
        unknown.now += 4000
        unknown.returns.forget(SessionKey(f"a/lost {session}"), unknown.now)
    assert unknown.end("a/new").survival(1000) > 0.3 > 0.05 > known.end("a/new").survival(1000)


def test_who_is_away_and_since_when(agent: Agent) -> None:
    one, two = SessionKey("a/1"), SessionKey("a/2")
    returns = agent.returns
    assert returns.outlook(one) is None
    assert returns.away_since(one) is None
    agent.end(one)
    assert returns.away_since(one) == 1000
    assert returns.outlook(two) is None
    agent.back(one, 5)
    assert returns.outlook(one) is None
    assert returns.away_since(one) is None


def test_who_is_not_away_neither_returns_nor_is_lost(agent: Agent) -> None:
    before = agent.median("a/1")
    for _ in range(50):
        agent.back("a/1", 1)
        agent.returns.forget(SessionKey("a/1"), agent.now)
    assert agent.median("a/1") == pytest.approx(before, rel=0.1)
    assert agent.returns.calibration().gaps == 0


def test_a_turn_that_ends_while_its_session_is_away_begins_the_gap_anew(agent: Agent) -> None:
    agent.end("a/1")
    agent.now += 500
    agent.end("a/1", awaits=Awaits.PERSON)
    assert agent.returns.away_since(SessionKey("a/1")) == 1500
    agent.back("a/1", 2)
    assert agent.returns.calibration().gaps == 1
    assert agent.returns.away_since(SessionKey("a/1")) is None


def test_who_says_again_and_again_how_a_gap_goes_on_teaches_nothing(agent: Agent) -> None:
    agent.gaps("a/1", _around(5), 20, tool="read")
    before = agent.median("a/1", tool="read")
    classes = agent.returns._gaps[Awaits.TOOL]
    remembered = len(classes)
    for number in range(200):
        agent.end("a/1", tool=f"made up {number}", expected_s=60)
        agent.now += 4000
    agent.end("a/1", tool="read")
    assert len(classes) == remembered
    agent.back("a/1", 5)
    assert agent.median("a/1", tool="read") == pytest.approx(before, rel=0.2)


def test_an_announcement_that_did_not_hold_says_nothing_more(agent: Agent) -> None:
    agent.end("a/2", tool="read")
    agent.end("a/1", tool="read", expected_s=0.0)
    agent.now += 30.0
    agent.end("a/3")
    announced, plain = (agent.returns.outlook(SessionKey(s)) for s in ("a/1", "a/2"))
    assert announced is not None
    assert plain is not None
    assert announced.quantile(0.5, 30.0) == pytest.approx(plain.quantile(0.5, 30.0), rel=0.1)


def test_who_announces_again_and_again_is_believed_less(agent: Agent) -> None:
    first = agent.end("a/1", expected_s=5.0)
    for _ in range(100):
        agent.now += 2.0
        again = agent.end("a/1", expected_s=5.0)
    assert again.quantile(0.5) > 3 * first.quantile(0.5)
    assert agent.end("b/1", expected_s=5.0).quantile(0.5) == first.quantile(0.5), "of a tenant"


def test_after_a_quiet_time_everybody_is_looked_at_once_and_some_at_a_time(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_tiers.returns.empirical._MOST_LOOKS", 4)
    for session in range(10):
        agent.end(f"a/{session}", awaits=Awaits.PERSON)
    looks: list[int] = []
    classes = agent.returns._gaps[Awaits.PERSON]
    monkeypatch.setattr(classes, "lasts", lambda path, place, passed: looks.append(place))
    agent.now += 36_000.0
    counts = []
    for session in range(4):
        agent.end(f"b/{session}")
        counts.append(len(looks))
    assert counts == [4, 8, 10, 10]
    assert len(set(looks)) == 1, "at once for all that has passed"
    assert GAPS.edges[looks[0]] <= 36_000.0 < GAPS.edges[looks[0] + 5]


def test_a_clock_that_goes_back_makes_no_negative_gap(agent: Agent) -> None:
    agent.end("a/1")
    agent.back("a/1", -10)
    agent.end("a/1", expected_s=10)
    agent.returns.forget(SessionKey("a/1"), agent.now - 10)
    assert agent.median("a/1") < 9


def test_of_too_many_that_are_away_those_that_left_first_are_forgotten(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_tiers.returns.empirical._MOST_AWAY", 10)
    for session in range(30):
        agent.end(f"a/{session}")
    away = [n for n in range(30) if agent.returns.away_since(SessionKey(f"a/{n}")) is not None]
    assert away == list(range(20, 30))


def test_classes_are_bounded_and_those_not_used_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_tiers.returns.classes._MOST", 50)
    classes = Classes(GAPS, of_gaps(Awaits.TOOL))

    def path(session: int, tool: str) -> tuple[tuple[str, ...], ...]:
        key = SessionKey(f"a/{session}")
        return path_of(TurnEnd(session=key, awaits=Awaits.TOOL, tool=tool))

    for session in range(200):
        classes.came_back(path(session, "x" * session), 10)
        classes.came_back(path(0, "kept"), 40)
        assert len(classes) <= 50
    expected = classes.expected(path(0, "kept"))
    assert expected[40] > 0.4, "what is used all the time is kept"


def test_one_tenant_s_many_classes_push_out_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_tiers.returns.classes._MOST", 50)
    classes = Classes(GAPS, of_gaps(Awaits.TOOL))

    def path(session: str, tool: str) -> tuple[tuple[str, ...], ...]:
        return path_of(TurnEnd(session=SessionKey(session), awaits=Awaits.TOOL, tool=tool))

    for _ in range(30):
        classes.came_back(path("a/1", "test"), 40)
    quiet = classes.expected(path("a/1", "test"))
    for number in range(300):
        classes.came_back(path(f"b/{number}", f"made up {number}"), 10)
        assert len(classes) <= 50
    assert classes.expected(path("a/1", "test")) is quiet
    for number in range(60):
        classes.came_back(path(f"{number}/1", ""), 10)
        assert len(classes) <= 50
    for widest in ("b/1", "7/1"):
        classes.shifted(path(widest, ""))
        assert len(classes) <= 50


def _run(
    agent: Agent, prefix: str, make: Callable[[], tuple[Awaits, float]], gaps: int
) -> list[bool]:
    trusted = []
    for gap in range(gaps):
        session = f"a/{prefix}{gap // 10}"
        awaits, seconds = make()
        agent.end(session, awaits=awaits, turn=gap % 10 + 1)
        agent.back(session, seconds)
        trusted.append(not agent.returns.distrusted)
    return trusted


def _coding(agent: Agent) -> Callable[[], tuple[Awaits, float]]:
    def make() -> tuple[Awaits, float]:
        if agent.dice.random() < 0.86:
            return Awaits.TOOL, _around(9, 1.2)(agent.dice)
        return Awaits.PERSON, _around(132, 1.9)(agent.dice)

    return make


def _night_jobs(agent: Agent) -> Callable[[], tuple[Awaits, float]]:
    return lambda: (Awaits.TOOL, _around(agent.dice.choice((900, 7000)), 0.3)(agent.dice))


def test_a_shift_is_noticed_and_overcome() -> None:
    agent = Agent(seed=1)
    assert all(_run(agent, "coding", _coding(agent), 2000))
    after = _run(agent, "nights", _night_jobs(agent), 600)
    noticed = after.index(False)
    assert noticed < 64
    regained = after.index(True, noticed)
    assert regained - noticed <= 128
    assert all(after[regained:])
    assert agent.returns.shifts == 1
    assert agent.returns.calibration().distance < 0.15
    assert agent.median("a/new") > 600


def test_when_one_tenant_s_gaps_become_others_that_one_alone_is_not_trusted() -> None:
    agent = Agent(seed=1)
    returns, one, other = agent.returns, SessionKey("a/1"), SessionKey("b/1")
    for session in range(20):
        agent.gaps(f"b/{session}", _around(30), 10, tool="test")
    _run(agent, "coding", _coding(agent), 1000)
    before = agent.median("b/new", tool="test")
    assert returns.trusts(one)
    make, noticed = _night_jobs(agent), 0
    while returns.trusts(one) and noticed < 30:
        _run(agent, f"nights {noticed} ", make, 10)
        noticed += 1
    assert not returns.trusts(one)
    assert returns.trusts(other)
    assert returns.distrusted == 1
    after = agent.median("b/newer", tool="test")
    assert after == pytest.approx(before, rel=0.005), "nothing of b is forgotten"
    assert agent.end("a/1").quantile(0.5) > 30, "it is predicted all the same"
    _run(agent, "nights", make, 200)
    assert returns.trusts(one)
    assert returns.distrusted == 0


def test_who_is_back_like_clockwork_is_trusted(agent: Agent) -> None:
    for session in range(20):
        agent.gaps(f"a/{session}", lambda _: 60.0, 20, tool="sleep")
        agent.gaps(f"a/{session}", lambda _: 60.0, 20, tool="sleep", expected_s=60)
        assert not agent.returns.distrusted or agent.returns.calibration().gaps < 100
    assert not agent.returns.distrusted


def test_without_a_shift_there_is_no_alarm_and_predictions_are_calibrated() -> None:
    agent = Agent(seed=2)
    assert all(_run(agent, "coding", _coding(agent), 3000))
    report = agent.returns.calibration()
    assert report.gaps == 200
    assert report.before_10 == pytest.approx(0.1, abs=0.06)
    assert report.before_50 == pytest.approx(0.5, abs=0.1)
    assert report.before_90 == pytest.approx(0.9, abs=0.06)
    assert report.distance < 0.12


def test_the_same_gaps_give_the_same_outlooks() -> None:
    medians = set()
    for _ in range(2):
        agent = Agent(seed=3)
        _run(agent, "coding", _coding(agent), 200)
        medians.add(agent.median("a/coding19"))
    assert len(medians) == 1


def test_who_never_comes_back_is_learned_of_before_anybody_says_so(agent: Agent) -> None:
    for number in range(60):
        agent.end(f"t/left-{number}", awaits=Awaits.PERSON)
        agent.gaps(f"t/stays-{number}", _around(20.0), 1, awaits=Awaits.PERSON)
    agent.now += 3600.0
    # Half of the gaps have lasted for an hour or more, and nobody was forgotten.
    outlook = agent.end("t/new", awaits=Awaits.PERSON)
    assert outlook.survival(600.0) == pytest.approx(0.5, abs=0.1)


def test_a_return_that_is_told_late_is_learned_all_the_same(agent: Agent) -> None:
    """Since its first byte came, the gap has been looked at, as one that lasts."""
    begun = agent.now
    for number in range(100):
        agent.now = begun + 100.0 * number
        agent.end(f"t/{number}")
        agent.now += 40.0
        agent.end("u/somebody")
        agent.returns.returned(SessionKey(f"t/{number}"), agent.now - 11.0)
    assert agent.median("t/new") == pytest.approx(40, rel=0.2), "no sooner than it was seen to last"


def test_who_is_away_is_predicted_anew_by_what_became_of_others(agent: Agent) -> None:
    before = agent.end("t/waits", awaits=Awaits.PERSON)
    begun = agent.now
    for number in range(20):
        agent.end(f"t/others-{number}", awaits=Awaits.PERSON)
    agent.now = begun + 3000.0
    for number in range(20):
        agent.returns.returned(SessionKey(f"t/others-{number}"), agent.now)
    agent.now = begun + 12_000.0
    agent.end("t/somebody")
    now = agent.returns.outlook(SessionKey("t/waits"))
    assert now is not None
    assert before.survival(2000.0) < 0.3
    assert now.survival(2000.0) > 0.8, "nobody came back sooner"
