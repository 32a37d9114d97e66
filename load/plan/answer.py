"""What the hardware gives: the question simulated, and around it less and more."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from load.plan.question import Question
from load.plan.valet import policies
from load.plan.workload import Workload
from load.simulate import ClosedLoop, Hardware, Outcome, SimulationConfig, simulate

_DAY_S = 86_400.0


class Place(StrEnum):
    """Where a reusable token's KV came from."""

    DEVICE = "device"
    DRAM = "dram"
    SSD = "ssd"
    """Loaded while the request waited."""
    COMPUTED = "computed"
    """Again, though it had been computed before."""


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration and what it gives."""

    question: Question
    outcome: Outcome

    @property
    def tokens(self) -> dict[Place, int]:
        """Reusable tokens of the counted turns, by place."""
        steady = self.outcome.steady
        return {
            Place.DEVICE: steady.device_tokens,
            Place.DRAM: steady.dram_tokens,
            Place.SSD: steady.late_tokens,
            Place.COMPUTED: steady.recomputed_tokens,
        }

    @property
    def shares(self) -> dict[Place, float]:
        """Of the reusable tokens, by place."""
        reusable = max(1, self.outcome.steady.reusable_tokens)
        return {place: tokens / reusable for place, tokens in self.tokens.items()}

    @property
    def read_bytes_per_s(self) -> float:
        """From SSD, on average: what requests were waiting for when they were scheduled, and
        prefetches."""
        steady, outcome = self.outcome.steady, self.outcome
        waited = steady.late_tokens / max(1.0, self._steady_s)
        fetched = outcome.prefetching.fetched_tokens / max(1.0, outcome.simulated_s)
        return (waited + fetched) * self.question.hardware.kv_bytes

    @property
    def written_bytes_per_day(self) -> float:
        """To SSD, at this rate: all KV that is computed for the first time."""
        steady = self.outcome.steady
        new = (steady.prompt_tokens - steady.reusable_tokens) / max(1.0, self._steady_s)
        return new * self.question.hardware.kv_bytes * _DAY_S

    @property
    def live_bytes(self) -> float:
        """KV of the sessions that users have open, on average."""
        return self.outcome.steady.live_tokens * self.question.hardware.kv_bytes

    @property
    def in_use_bytes(self) -> float:
        """KV of the requests that run, on average."""
        return self.outcome.steady.in_use_tokens * self.question.hardware.kv_bytes

    @property
    def _steady_s(self) -> float:
        steady = self.outcome.steady
        return 60 * steady.turns / steady.turns_per_minute if steady.turns_per_minute else math.inf


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a question."""

    asked: Point
    by_dram: Sequence[Point]
    """From little to much; the asked is among them."""
    by_users: Sequence[Point]
    """From few to many; the asked is among them."""


SimulateAll = Callable[[Callable[[Question], Point], Sequence[Question]], Iterable[Point]]
"""``map``, or that of a pool of processes."""


def answer(question: Question, workload: Workload, simulate_all: SimulateAll = map) -> Answer:
    """Simulate the question and what is around it. Pure and deterministic; seconds of computing
    each. Raises ValueError for a workload of no requests."""
    by_dram, by_users = list(question.by_dram()), list(question.by_users())
    questions = list(dict.fromkeys([*by_dram, *by_users]))
    points = dict(zip(questions, simulate_all(partial(point, workload), questions), strict=True))
    return Answer(
        points[question], [points[each] for each in by_dram], [points[each] for each in by_users]
    )


def point(workload: Workload, question: Question) -> Point:
    """Simulate one configuration with Valet's own policies."""
    hardware = replace(question.hardware, chunk_tokens=_chunk_tokens(workload.block_tokens))
    config = SimulationConfig(
        engine=question.engine,
        hardware=hardware,
        turns=question.warm_up_turns + question.turns,
        warm_up_turns=question.warm_up_turns,
    )
    source = ClosedLoop(workload.requests, question.users, question.seed)
    outcome = simulate(
        config,
        source,
        policies(question.engine, hardware),
        block_tokens=workload.block_tokens,
    )
    return Point(question, outcome)


def _chunk_tokens(block_tokens: int) -> int:
    """Of a chunk, which is whole blocks: those of Valet's default where the trace's fit in."""
    return block_tokens * -(-Hardware().chunk_tokens // block_tokens)
