"""Sessions like those of recorded agents, drawn at random, as lines of Valet's own trace format
(``load.traces.own``). The same seed gives the same lines.

    requests = own_requests(lines(1000, seed=1))
    source = ClosedLoop(requests, users=64)          # or OpenLoop(requests)

Lengths, rewrites and coding gaps have the percentiles of 710 recorded sessions
(``load/workload.py``). Lines have a time of arrival and a gap; they come in the order of time, and
no more sessions are remembered than are open, so that any number of them can be streamed.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cache_tiers.returns.types import Awaits
from load.workload import (
    PERSON_GAP_S,
    TOOL_GAP_S,
    TOOL_SHARE,
    Shape,
    conversation,
)

SHAPE: Final = Shape(scale=1.0, context=1_000_000)
"""As recorded."""
SHARED_TOKENS: Final = 10_000
"""Of tools and instructions with which all sessions begin, as those of recorded sub-agents do."""
_TOOLS: Final = ("read_file", "run_tests", "search", "edit_file", "list_files")
_ANSWER_S: Final = 1.3
_TOKEN_S: Final = 0.016
"""How long answers took: see ``EngineModel.decode_s``."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """How sessions wait."""

    tool_share: float
    """Of turns that end in a call of a tool."""
    tool_s: Callable[[random.Random], float]
    person_s: Callable[[random.Random], float]

    def draw(self, dice: random.Random) -> tuple[Awaits, float]:
        """A turn's end, and the gap behind it in seconds."""
        if dice.random() < self.tool_share:
            return Awaits.TOOL, self.tool_s(dice)
        return Awaits.PERSON, self.person_s(dice)


def _log_normal(median_s: float, spread: float) -> Callable[[random.Random], float]:
    return lambda dice: dice.lognormvariate(math.log(median_s), spread)


CODING: Final = Gaps(TOOL_SHARE, TOOL_GAP_S.draw, PERSON_GAP_S.draw)
CUSTOMER_SERVICE: Final = Gaps(0.25, _log_normal(2.0, 0.5), _log_normal(45.0, 0.8))
"""A guess, as nobody recorded them: a customer reads and types, one turn in four looks something
up."""


def lines(
    sessions: int,
    seed: int,
    *,
    starts_per_s: float = 0.01,
    shape: Shape = SHAPE,
    gaps: Gaps = CODING,
    shared_tokens: int = SHARED_TOKENS,
) -> Iterator[dict[str, Any]]:
    """``sessions`` begin at random times, ``starts_per_s`` on average. The arrivals suppose that
    answers take as long as recorded ones."""
    dice = random.Random(seed)
    waiting: list[tuple[float, int, dict[str, Any], Iterator[dict[str, Any]]]] = []
    begins_at = 0.0
    for number in range(sessions):
        begins_at += dice.expovariate(starts_per_s)
        while waiting and waiting[0][0] <= begins_at:
            yield _next(waiting)
        turns = session_lines(f"{seed}/{number}", begins_at, shape, gaps, shared_tokens)
        line = next(turns)
        heapq.heappush(waiting, (line["at"], number, line, turns))
    while waiting:
        yield _next(waiting)


def session_lines(
    name: str, begins_at: float, shape: Shape, gaps: Gaps, shared_tokens: int
) -> Iterator[dict[str, Any]]:
    """One session's, the first at ``begins_at``."""
    dice = random.Random(f"{name} waits")
    at, gap_s = begins_at, 0.0
    has = first = 0
    for turn in conversation(name, shape):
        keeps = first if turn.rewrites else has
        awaits, next_gap_s = gaps.draw(dice)
        line: dict[str, Any] = {
            "session": name,
            "at": round(at, 3),
            "gap_s": round(gap_s, 3),
            "prompt": keeps + turn.appended,
            "output": turn.output,
            "awaits": str(awaits),
            "tool": dice.choice(_TOOLS) if awaits is Awaits.TOOL else "",
        }
        if turn.rewrites:
            line["keeps"] = keeps
        if not has and shared_tokens:
            line["shared"] = ["agents", min(shared_tokens, line["prompt"])]
        yield line
        has = keeps + turn.appended + turn.output
        first = first or has
        at += _ANSWER_S + _TOKEN_S * turn.output + next_gap_s
        gap_s = next_gap_s


def _next(
    waiting: list[tuple[float, int, dict[str, Any], Iterator[dict[str, Any]]]],
) -> dict[str, Any]:
    _, number, line, turns = waiting[0]
    following = next(turns, None)
    if following is None:
        heapq.heappop(waiting)
    else:
        heapq.heapreplace(waiting, (following["at"], number, following, turns))
    return line
