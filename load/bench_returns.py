"""How well the time until a session is back is predicted, and whether a shift is noticed.

Recorded sessions run in a closed loop, some at a time. Each gap is first predicted, then learned
from. Sessions are split in two halves by chance, several times: models learn from one, and are
judged on the other, where they go on learning. Beside ``EmpiricalReturns``: the same hazards with
no classes but tools and persons, and with none at all.

Then customer service follows on coding in mid-run: after how many gaps do predictions count as not
to be trusted, and after how many as trusted again? And how often does that happen without a shift?
Gaps were recorded in whole seconds; each is moved by up to half of one, by chance.
"""

import argparse
import math
import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from cache_tiers.returns.curve import Curve
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.fit import distance
from cache_tiers.returns.history import History, Tally
from cache_tiers.returns.prior import GAPS, of_gaps
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey
from load.environment import describe
from load.gap_loop import ClosedLoop, Model, Session, customer_service, recorded
from load.report import Spread, table, verdicts, write_json
from load.server import REPOSITORY
from load.traces import find_traces

SPLITS: Final = 8
"""And as many orders of the sessions for each number of users."""
USERS: Final = (4, 16, 64)
SPLIT_USERS: Final = 16
WANTED_DISTANCE: Final = 0.05
WANTED_UNTRUSTED: Final = 0.01
"""Of gaps without a shift."""
SHIFT_AFTER: Final = 8_000
"""Gaps of coding; as many of customer service follow as it takes, ``SHIFT_WATCHED`` at most."""
SHIFT_WATCHED: Final = 2_000
MODELS: Final = ("empirical", "tool or person", "one class")


class FewClasses:
    """A ``Model`` of two classes, or of one."""

    def __init__(self, *, by_awaits: bool) -> None:
        self._by_awaits = by_awaits
        tally = Tally(GAPS)
        self._priors = {awaits: of_gaps(awaits) for awaits in Awaits}
        self._histories = {a: History(tally, strength=16.0, half_life=2000) for a in Awaits}
        self._away: dict[SessionKey, tuple[Awaits, float]] = {}

    def ended(self, end: TurnEnd, now: float) -> None:
        self._away[end.session] = end.awaits if self._by_awaits else Awaits.TOOL, now

    def returned(self, session: SessionKey, now: float) -> None:
        awaits, since = self._away.pop(session)
        self._histories[awaits].came_back(GAPS.bin_of(now - since))

    def forget(self, session: SessionKey, now: float) -> None:
        if session in self._away:
            awaits, since = self._away.pop(session)
            self._histories[awaits].was_lost(GAPS.bin_of(now - since))

    def outlook(self, session: SessionKey) -> Outlook:
        awaits, _ = self._away[session]
        return Curve(GAPS, self._histories[awaits].returning(self._priors[awaits]))


def make(model: str) -> Model:
    """One of ``MODELS`` that has seen nothing."""
    if model == "empirical":
        return EmpiricalReturns()
    return FewClasses(by_awaits=model == "tool or person")


@dataclass(frozen=True, slots=True)
class Score:
    """One model on the half of the sessions that it did not learn from."""

    model: str
    split: int
    gaps: int
    likelihood: float
    """Mean logarithm of the chance that was given to the bin (a tenth of a decade) that a gap ended
    in: nats, the higher the better."""
    before_10: float
    """The share of gaps that ended before the time predicted for 10 %."""
    before_50: float
    before_90: float
    distance: float
    """Of shares seen from shares predicted, the largest (Kolmogorov-Smirnov)."""


def score(model: str, split: int, judged: Iterable[tuple[Outlook, float]]) -> Score:
    """Of outlooks and the gaps that followed."""
    dice = random.Random(split)
    places, likelihoods = [], []
    for outlook, seconds in judged:
        at = GAPS.bin_of(seconds)
        begins = outlook.survival(GAPS.edges[at])
        ends = outlook.survival(GAPS.edges[at + 1]) if at < GAPS.bins else 0.0
        likelihoods.append(math.log(max(begins - ends, 1e-12)))
        places.append(1.0 - begins + dice.random() * (begins - ends))

    def before(share: float) -> float:
        return statistics.fmean(place <= share for place in places)

    return Score(
        model,
        split,
        len(places),
        statistics.fmean(likelihoods),
        before(0.1),
        before(0.5),
        before(0.9),
        distance(places),
    )


def held_back(scopes: dict[str, list[Session]], splits: int, users: int) -> Iterator[Score]:
    """All models on several splits."""
    for split in range(splits):
        names = sorted(scopes)
        random.Random(split).shuffle(names)
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        for name in MODELS:
            model = make(name)
            loop = ClosedLoop(model, users, random.Random(split))
            learned, judged = (loop.run(s for n in half for s in scopes[n]) for half in halves)
            for _ in learned:
                pass
            yield score(name, split, judged)


@dataclass(frozen=True, slots=True)
class Steady:
    """A run without a shift."""

    users: int
    seed: int
    gaps: int
    alarms: int
    untrusted: float
    """Share of gaps."""
    us_a_turn: float
    """What ``ended`` and ``returned`` and the loop itself take."""


def steady(sessions: list[Session], users: int, seed: int) -> Steady:
    """All recorded sessions, in some order."""
    dice = random.Random(seed)
    order = dice.sample(sessions, len(sessions))
    model = EmpiricalReturns()
    begun = time.process_time()
    trusted = [not model.distrusted for _ in ClosedLoop(model, users, dice).run(order)]
    spent = time.process_time() - begun
    untrusted = 1.0 - statistics.fmean(trusted)
    return Steady(users, seed, len(trusted), model.shifts, untrusted, spent / len(trusted) * 1e6)


@dataclass(frozen=True, slots=True)
class Shift:
    """A run in which customer service follows on coding. Counts are of gaps since then."""

    users: int
    seed: int
    untrusted_after: int | None
    """None: predictions went on to fit."""
    trusted_after: int | None
    likelihood_before: float
    """As in ``Score``, of the last 2,000 gaps of coding."""
    likelihood_first_200: float
    likelihood_later: float
    """Of those from the 200th on."""


def shift(sessions: list[Session], users: int, seed: int) -> Shift:
    """Watch one."""
    dice = random.Random(seed)
    model = EmpiricalReturns()
    loop = ClosedLoop(model, users, dice)

    coding = list(loop.run(dice.sample(sessions, len(sessions)), SHIFT_AFTER))
    trusted, service = [], []
    for each in loop.run(customer_service(dice), SHIFT_WATCHED):
        trusted.append(not model.distrusted)
        service.append(each)
    lost = trusted.index(False) if False in trusted else None
    found = None if lost is None or True not in trusted[lost:] else trusted.index(True, lost)
    parts = coding[-2000:], service[:200], service[200:]
    return Shift(
        users, seed, lost, found, *(score("empirical", seed, part).likelihood for part in parts)
    )


R = TypeVar("R", Steady, Shift)


def _by_users(runs: Sequence[R]) -> list[tuple[int, list[R]]]:
    users = dict.fromkeys(run.users for run in runs)
    return [(number, [run for run in runs if run.users == number]) for number in users]


def draw_scores(scores: Sequence[Score]) -> str:
    """A model a line: the median of the splits, and the lowest and highest. Pure."""

    def line(model: str) -> list[str]:
        own = [score for score in scores if score.model == model]
        figures = ("likelihood", "before_10", "before_50", "before_90", "distance")
        return [model, *(spread([getattr(score, figure) for score in own]) for figure in figures)]

    return table(
        ["model", "nats a gap", "before 10 %", "before 50 %", "before 90 %", "distance"],
        [line(model) for model in MODELS],
    )


def draw_steady(runs: Sequence[Steady]) -> str:
    """Users a line. Pure."""
    return table(
        ["users", "gaps", "alarms", "in 10,000 gaps", "untrusted", "µs a turn"],
        [
            [
                str(users),
                f"{gaps:,}",
                str(alarms),
                f"{alarms / gaps * 10_000:.2f}",
                f"{statistics.fmean(run.untrusted for run in own):.2%}",
                f"{statistics.median(run.us_a_turn for run in own):.0f}",
            ]
            for users, own in _by_users(runs)
            for gaps, alarms in [(sum(r.gaps for r in own), sum(r.alarms for r in own))]
        ],
    )


def draw_shifts(runs: Sequence[Shift]) -> str:
    """Users a line. Pure."""
    return table(
        [
            "users",
            "noticed",
            "untrusted after",
            "trusted after",
            "nats: coding",
            "first 200",
            "later",
        ],
        [
            [
                str(users),
                f"{sum(run.untrusted_after is not None for run in own)} of {len(own)}",
                spread([r.untrusted_after for r in own if r.untrusted_after is not None], 0),
                spread([r.trusted_after for r in own if r.trusted_after is not None], 0),
                spread([run.likelihood_before for run in own]),
                spread([run.likelihood_first_200 for run in own]),
                spread([run.likelihood_later for run in own]),
            ]
            for users, own in _by_users(runs)
        ],
    )


def spread(samples: Sequence[float], digits: int = 3) -> str:
    """``median (lowest … highest)``. Pure."""
    found = Spread.of(samples)
    if found is None:
        return "–"
    median, low, high = (f"{x:.{digits}f}" for x in (found.median, found.low, found.high))
    return f"{median} ({low} … {high})"


def wanted(scores: Sequence[Score], runs: Sequence[Steady]) -> dict[str, bool | None]:
    """Whether the figures are what Valet wants to reach. Pure."""
    by_model = {name: [s.likelihood for s in scores if s.model == name] for name in MODELS}
    ours, *others = (by_model[name] for name in MODELS)
    return {
        "likelier than fewer classes, on every split": all(
            own > their for other in others for own, their in zip(ours, other, strict=True)
        ),
        f"distance ≤ {WANTED_DISTANCE:g} on every split": all(
            score.distance <= WANTED_DISTANCE for score in scores if score.model == MODELS[0]
        ),
        f"untrusted without a shift ≤ {WANTED_UNTRUSTED:.0%} of gaps": (
            statistics.fmean(run.untrusted for run in runs) <= WANTED_UNTRUSTED
        ),
    }


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_returns", description=__doc__)
    parser.add_argument("--splits", type=int, default=SPLITS, help=f"and orders ({SPLITS})")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/returns.json")
    options = parser.parse_args()
    trace = find_traces(os.environ, REPOSITORY).get("claude_code")
    if trace is None:
        parser.error("no trace of coding agents found: VALET_TRACES names its folder")
    scopes = recorded(trace, random.Random(0))
    sessions = [session for name in sorted(scopes) for session in scopes[name]]
    print(f"{len(sessions)} sessions, {sum(map(len, sessions)):,} gaps\n", flush=True)

    scores = list(held_back(scopes, options.splits, SPLIT_USERS))
    print(f"sessions held back, {options.splits} splits\n{draw_scores(scores)}\n", flush=True)
    seeds = range(options.splits)
    runs = [steady(sessions, users, seed) for users in USERS for seed in seeds]
    print(f"no shift, {options.splits} orders\n{draw_steady(runs)}\n", flush=True)
    shifts = [shift(sessions, users, seed) for users in USERS for seed in seeds]
    print(f"coding, then customer service\n{draw_shifts(shifts)}\n")
    goals = wanted(scores, runs)
    print(verdicts(goals))
    write_json(
        options.out,
        {
            "environment": describe(),
            "split_users": SPLIT_USERS,
            "scores": [asdict(score) for score in scores],
            "steady": [asdict(run) for run in runs],
            "shifts": [asdict(run) for run in shifts],
            "wanted": goals,
        },
    )
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
