"""What the bench of returns runs, counts and says."""

import math
import random
from collections.abc import Iterator

import pytest

from cache_tiers.returns.curve import Curve
from cache_tiers.returns.prior import GAPS, of_gaps
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey
from load.bench_returns import (
    MODELS,
    FewClasses,
    Score,
    Steady,
    draw_scores,
    draw_shifts,
    draw_steady,
    held_back,
    make,
    score,
    shift,
    steady,
    wanted,
)
from load.gap_loop import ClosedLoop, Gap, Session, customer_service, recorded
from load.traces import Request


def _request(session: str, gap_s: float | None, awaits: Awaits, tool: str = "") -> Request:
    return Request(session, 0.0, 10, 10, session.partition("/")[0], (), gap_s, awaits, tool)


def test_a_gap_belongs_to_the_turn_before_it() -> None:
    requests = [
        _request("one", None, Awaits.TOOL, "read"),
        _request("one/agent", 3.0, Awaits.TOOL),
        _request("one", 7.0, Awaits.PERSON),
        _request("two", 1.0, Awaits.TOOL),
        _request("one/agent", 5.0, Awaits.TOOL),
        _request("one", 0.0, Awaits.TOOL),
        _request("one", None, Awaits.TOOL),
    ]
    scopes = recorded(requests, random.Random(1))
    assert list(scopes) == ["one", "two"]
    (main, agent), (other,) = scopes["one"], scopes["two"]
    assert [(gap.awaits, gap.tool) for gap in main] == [
        (Awaits.TOOL, "read"),
        (Awaits.PERSON, ""),
    ]
    assert [gap.seconds for gap in main] == pytest.approx([7, 0], abs=0.5)
    assert all(gap.seconds >= 0 for gap in main)
    assert [gap.seconds for gap in agent] == pytest.approx([5], abs=0.5)
    assert not other


class Ledger:
    """A model that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []
        self.away: dict[SessionKey, float] = {}
        self.most_away = 0

    def ended(self, end: TurnEnd, now: float) -> None:
        assert end.session not in self.away
        self.away[end.session] = now
        self.most_away = max(self.most_away, len(self.away))
        self.told.append(("ended", end.session, now))

    def returned(self, session: SessionKey, now: float) -> None:
        self.told.append(("returned", session, now - self.away.pop(session)))

    def forget(self, session: SessionKey, now: float) -> None:
        del self.away[session]
        self.told.append(("forgotten", session, now))

    def outlook(self, session: SessionKey) -> Outlook:
        assert session in self.away
        return Curve(GAPS, of_gaps(Awaits.TOOL))


def _sessions(count: int, turns: int) -> list[Session]:
    return [[Gap(Awaits.TOOL, "", 10.0 * n + turn) for turn in range(turns)] for n in range(count)]


def test_a_closed_loop_has_so_many_users_and_keeps_the_gaps() -> None:
    model = Ledger()
    seen = [gap for _, gap in ClosedLoop(model, 3, random.Random(1)).run(_sessions(10, 5))]
    assert sorted(seen) == [10.0 * n + turn for n in range(10) for turn in range(5)]
    assert model.most_away == 3
    assert not model.away
    returned = [length for kind, _, length in model.told if kind == "returned"]
    assert returned == pytest.approx(seen)
    ends = [now for kind, _, now in model.told if kind == "ended"]
    assert len({round(now, 6) for now in ends}) == 50


def test_a_loop_that_is_cut_short_forgets_who_is_away_and_can_go_on() -> None:
    model = Ledger()
    loop = ClosedLoop(model, 3, random.Random(1))
    assert len(list(loop.run(_sessions(10, 5), most=7))) == 7
    assert not model.away
    first = {session for _, session, _ in model.told}
    model.told.clear()
    assert len(list(loop.run(_sessions(2, 5)))) == 10
    assert not first & {session for _, session, _ in model.told}, "they are other sessions"


def test_customer_service_is_quick_tools_and_persons_of_a_minute() -> None:
    sessions = customer_service(random.Random(2))
    gaps = [gap for _ in range(200) for gap in next(sessions)]
    tools = sorted(gap.seconds for gap in gaps if gap.awaits is Awaits.TOOL)
    persons = sorted(gap.seconds for gap in gaps if gap.awaits is Awaits.PERSON)
    assert len(tools) / len(gaps) == pytest.approx(0.25, abs=0.05)
    assert tools[len(tools) // 2] == pytest.approx(2, rel=0.1)
    assert persons[len(persons) // 2] == pytest.approx(45, rel=0.1)
    assert next(customer_service(random.Random(2))) == next(customer_service(random.Random(2)))


def test_few_classes_learn_and_know_no_session() -> None:
    apart, together = FewClasses(by_awaits=True), FewClasses(by_awaits=False)
    for model in (apart, together):
        for n in range(200):
            session = SessionKey(f"a/{n % 2}")
            awaits = (Awaits.TOOL, Awaits.PERSON)[n % 2]
            model.ended(TurnEnd(session=session, awaits=awaits), n * 1000.0)
            model.returned(session, n * 1000.0 + (1.0, 500.0)[n % 2])

    def chance(model: FewClasses, awaits: Awaits) -> float:
        """Of being back after 20 s, for a session never seen."""
        session = SessionKey("b/new")
        model.ended(TurnEnd(session=session, awaits=awaits), 0.0)
        survival = model.outlook(session).survival(20)
        model.forget(session, 0.0)
        return 1 - survival

    assert chance(apart, Awaits.TOOL) > 0.9
    assert chance(apart, Awaits.PERSON) < 0.2
    assert chance(together, Awaits.TOOL) == pytest.approx(0.5, abs=0.1)
    assert chance(together, Awaits.TOOL) == pytest.approx(chance(together, Awaits.PERSON), abs=0.02)


def _drawn(curve: Curve, count: int, factor: float = 1.0) -> Iterator[tuple[Outlook, float]]:
    dice = random.Random(5)
    for _ in range(count):
        gap = curve.quantile(dice.random())
        yield curve, factor * (gap if gap < math.inf else GAPS.edges[-1] + 1)


def test_who_knows_the_truth_is_calibrated_and_scores_best() -> None:
    truth = Curve(GAPS, of_gaps(Awaits.PERSON))
    right = score("x", 0, _drawn(truth, 4000))
    assert right.gaps == 4000
    assert right.before_10 == pytest.approx(0.1, abs=0.02)
    assert right.before_50 == pytest.approx(0.5, abs=0.03)
    assert right.before_90 == pytest.approx(0.9, abs=0.02)
    assert right.distance < 0.03
    wrong = score("x", 0, _drawn(truth, 4000, factor=4.0))
    assert wrong.likelihood < right.likelihood - 0.1
    assert wrong.distance > 0.1
    assert wrong.before_50 < 0.4


def _paced(count: int) -> dict[str, list[Session]]:
    """Sessions that each have a pace of their own."""
    dice = random.Random(9)
    scopes: dict[str, list[Session]] = {}
    for n in range(count):
        pace = dice.choice((2.0, 60.0))
        scopes[f"s{n}"] = [
            [Gap(Awaits.TOOL, "", dice.lognormvariate(math.log(pace), 0.3)) for _ in range(30)]
        ]
    return scopes


def test_who_knows_sessions_beats_who_does_not_where_they_differ() -> None:
    scores = list(held_back(_paced(24), splits=2, users=4))
    assert [(s.model, s.split) for s in scores] == [(m, split) for split in (0, 1) for m in MODELS]
    assert all(s.gaps == 12 * 30 for s in scores)
    for split in (0, 1):
        ours, *others = (s.likelihood for s in scores if s.split == split)
        assert all(ours > other + 0.3 for other in others)


def test_a_run_without_and_one_with_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load.bench_returns.SHIFT_AFTER", 400)
    monkeypatch.setattr("load.bench_returns.SHIFT_WATCHED", 300)
    dice = random.Random(4)
    slow = [
        [Gap(Awaits.PERSON, "", dice.lognormvariate(math.log(20_000), 0.5)) for _ in range(20)]
        for _ in range(40)
    ]
    calm = steady(slow, users=8, seed=1)
    assert calm.gaps == 800
    assert calm.untrusted < 0.2
    run = shift(slow, users=8, seed=1)
    assert run.untrusted_after is not None
    assert run.trusted_after is not None
    assert 0 < run.untrusted_after < run.trusted_after < 300
    assert run.likelihood_later > run.likelihood_first_200
    assert "1 of 1" in draw_shifts([run])
    assert "800" in draw_steady([calm])


def test_goals_are_about_every_split_and_all_runs() -> None:
    def scored(model: str, split: int, likelihood: float, far: float = 0.01) -> Score:
        return Score(model, split, 10, likelihood, 0.1, 0.5, 0.9, far)

    good = [scored(m, s, -2.0 - n) for s in (0, 1) for n, m in enumerate(MODELS)]
    runs = [Steady(4, 0, 10_000, 1, 0.0, 50.0), Steady(16, 0, 10_000, 0, 0.015, 50.0)]
    assert list(wanted(good, runs).values()) == [True, True, True]
    assert "-2.000 (-2.000 … -2.000)" in draw_scores(good)
    one_split_lost = [*good[:-1], scored(MODELS[-1], 1, -1.9)]
    assert list(wanted(one_split_lost, runs).values()) == [False, True, True]
    astray = [scored(MODELS[0], 0, -1.0, far=0.2), *good[1:]]
    assert list(wanted(astray, runs).values()) == [True, False, True]
    nervous = [Steady(4, 0, 10_000, 9, 0.03, 50.0)]
    assert list(wanted(good, nervous).values()) == [True, True, False]


def test_every_model_has_a_maker() -> None:
    assert {type(make(name)).__name__ for name in MODELS} == {"EmpiricalReturns", "FewClasses"}
