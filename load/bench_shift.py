"""What happens to the hot tier when sessions suddenly wait in another way.

Generated sessions (``load/simulate/generated.py``) in a closed loop: coding agents, whose gaps
become those of customer service in mid-run, whatever turn a session is in. *Hot* is the share of
reusable tokens in device or DRAM when the scheduler asked, in windows of turns around the shift.
Three serve the same sessions: Valet, LRU that loads on demand, and Valet's policies told how gaps
are distributed, before the shift and behind it. Several seeds are added up, for a window of one run
says little.

Behind a shift the load goes on changing for hours, as users come back from the long gaps that they
were in. So Valet's own steady state is that of the policies that had nothing to learn, in the same
window.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.types import SessionKey
from load.environment import describe
from load.report import table, verdicts, write_json
from load.server import REPOSITORY
from load.simulate import EngineModel, Hardware, SimulationConfig, simulate
from load.simulate.generated import CODING, CUSTOMER_SERVICE, SHAPE, Gaps, lines, session_lines
from load.simulate.known_gaps import GapCurves, KnownGaps, gaps_of
from load.simulate.roster import Name, contender
from load.simulate.source import Arrival, Visit
from load.traces import own_requests

USERS: Final = 32
SEEDS: Final = 24
QUICK_SEEDS: Final = 2
SHIFT_AT: Final = 3000
"""Turns answered before the shift."""
AFTER: Final = 1500
WINDOW: Final = 100
"""Turns."""
BEFORE: Final = 5
"""Windows that are shown before the shift."""
RECOVERED_AFTER: Final = 200
WANTED_NEAR: Final = 0.02
BEGINS_WITHIN_S: Final = 600.0
PLAN_EVERY_S: Final = 0.5
ROOM_TOKENS: Final = 1_500_000
"""A bit more than a quarter of what 32 users have open: customers who come back every minute keep
more of it in use than coding agents do."""
HARDWARE: Final = Hardware(
    dram_bytes=ROOM_TOKENS * 23_000,
    device_bytes=ROOM_TOKENS * 23_000,
    ssd_bandwidth=3e9,
    kv_bytes=23_000,
)
POLICIES: Final = (Name.VALET, Name.INFORMED, Name.LRU)


class ShiftingLoop:
    """A ``Source``: users as in ``ClosedLoop``, at generated sessions, of whom each turn that is
    sent when ``shift_at`` turns have been answered, or later, waits as in customer service."""

    def __init__(self, users: int, seed: int, shift_at: int, on_shift: Callable[[], None]) -> None:
        self._users = users
        self._seed = seed
        self._shift_at = shift_at
        self._on_shift = on_shift
        self._answered = 0
        self._begun = 0

    def begin(self) -> Iterator[Arrival]:
        """See ``Source``. Each user is somewhere within a session."""
        dice = random.Random(self._seed)
        for at in sorted(dice.uniform(0, BEGINS_WITHIN_S) for _ in range(self._users)):
            visit = self._next()
            visit.number = dice.randrange(len(visit.requests))
            yield at, self._sent(visit)

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """See ``Source``."""
        self._answered += 1
        if self._answered == self._shift_at:
            self._on_shift()
        if visit.upcoming is None:
            yield now, self._sent(self._next())
        else:
            visit.number += 1
            yield now + (visit.request.gap_s or 0.0), self._sent(visit)

    def _next(self) -> Visit:
        self._begun += 1
        name = f"{self._seed}/{self._begun}"
        made = session_lines(name, 0.0, SHAPE, CODING, shared_tokens=0)
        return Visit(SessionKey(f"made/{name}"), name, list(own_requests(made)), user=0)

    def _sent(self, visit: Visit) -> Visit:
        """Decide what the turn ends in, and the gap behind it."""
        gaps = CODING if self._answered < self._shift_at else CUSTOMER_SERVICE
        dice = random.Random(f"{visit.session} {visit.number}")
        awaits, gap_s = gaps.draw(dice)
        requests, number = visit.requests, visit.number
        requests[number] = replace(requests[number], awaits=awaits)
        if visit.upcoming is not None:
            requests[number + 1] = replace(requests[number + 1], gap_s=gap_s)
        return visit


@dataclass(frozen=True, slots=True)
class Run:
    """One policy and one seed: tokens in each window, from ``BEFORE`` before the shift on."""

    policy: Name
    seed: int
    reusable: tuple[int, ...]
    hot: tuple[int, ...]
    shifts: int | None
    """How often Valet's predictions stopped to fit."""


def run(job: tuple[Name, int]) -> Run:
    """The policies are those of the grid."""
    policy, seed = job
    made = contender(policy, EngineModel(), HARDWARE, _known(CODING))
    returns = made.policies.returns

    def shift() -> None:
        if isinstance(returns, KnownGaps):
            returns.know(_known(CUSTOMER_SERVICE))

    config = SimulationConfig(
        hardware=HARDWARE,
        turns=SHIFT_AT + AFTER,
        load_at=made.load_at,
        plan_every_s=PLAN_EVERY_S,
    )
    source = ShiftingLoop(USERS, seed, SHIFT_AT, shift)
    outcome = simulate(config, source, made.policies, block_tokens=1)
    return Run(
        policy=policy,
        seed=seed,
        reusable=windows(outcome.reusable),
        hot=windows(outcome.hot),
        shifts=returns.shifts if isinstance(returns, EmpiricalReturns) else None,
    )


def windows(by_turn: Sequence[int]) -> tuple[int, ...]:
    """Sums of ``WINDOW`` turns each."""
    first = SHIFT_AT - BEFORE * WINDOW
    return tuple(
        sum(by_turn[start : start + WINDOW]) for start in range(first, SHIFT_AT + AFTER, WINDOW)
    )


@cache
def _known(gaps: Gaps) -> GapCurves:
    """As they are in many sessions."""
    return gaps_of(own_requests(lines(200, seed=0, gaps=gaps)))


def shares(runs: Iterable[Run], policy: Name) -> list[float]:
    """Hot, by window, of all seeds together."""
    mine = [each for each in runs if each.policy is policy]
    hot, reusable = (
        [sum(column) for column in zip(*(getattr(r, of) for r in mine), strict=True)]
        for of in ("hot", "reusable")
    )
    return [part / max(1, whole) for part, whole in zip(hot, reusable, strict=True)]


def judge(runs: Sequence[Run]) -> dict[str, bool]:
    """What is wanted, of all seeds together. Against LRU window by window; against its own steady
    state in all windows together that begin ``RECOVERED_AFTER`` turns behind the shift or later,
    for one of them is off by several points by chance."""
    valet, told, lru = (shares(runs, policy) for policy in POLICIES)
    behind = BEFORE + RECOVERED_AFTER // WINDOW
    never_worse = all(
        mine >= theirs for mine, theirs in zip(valet[BEFORE:], lru[BEFORE:], strict=True)
    )
    back = statistics.mean(valet[behind:]) >= statistics.mean(told[behind:]) - WANTED_NEAR
    return {
        f"within 2 points of its own steady state {RECOVERED_AFTER} turns after the shift": back,
        "never worse than LRU behind the shift": never_worse,
    }


def draw(runs: Sequence[Run]) -> str:
    """A line a window."""
    columns = [shares(runs, policy) for policy in POLICIES]
    rows = [
        [f"{WINDOW * (number - BEFORE):+d} …", *(f"{100 * share:.1f}" for share in window)]
        for number, window in enumerate(zip(*columns, strict=True))
    ]
    return table(["hot, %, by turns since the shift", *(str(policy) for policy in POLICIES)], rows)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/shift.json")
    options = parser.parse_args()
    environment = describe()
    seeds = range(QUICK_SEEDS if options.quick else SEEDS)
    jobs = [(policy, seed) for seed in seeds for policy in POLICIES]
    with get_context("spawn").Pool(options.processes) as pool:
        runs = list(pool.imap_unordered(run, jobs))
    runs.sort(key=lambda each: (each.seed, each.policy))
    print(draw(runs))
    goals = judge(runs)
    print(verdicts(goals))
    write_json(
        options.out,
        {
            "environment": environment,
            "users": USERS,
            "window_turns": WINDOW,
            "windows_before": BEFORE,
            "hot": {policy: shares(runs, policy) for policy in POLICIES},
            "runs": [asdict(each) for each in runs],
            "wanted": goals,
        },
    )
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
