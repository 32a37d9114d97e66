"""Conversations of coding agents, drawn at random to known distributions. Pure.

The percentiles are those of 710 recorded coding-agent sessions (86 % of their turns end in a tool
call, 2.2 % rewrite the context). Such sessions have hundreds of thousands of tokens; ``scale``
divides every length, so that the shape stays and the context fits a small model.
"""

import math
import random
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

TOOL_SHARE = 0.86
"""Of turns that a tool's result follows; a person follows the others."""
REWRITE_SHARE = 0.022
"""Of turns before which the client compacts or edits what came before."""

_NORMAL = NormalDist()

_TURN_TOKENS = 12
"""What a chat template adds to the two messages of a turn, about."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution of positive values that has these percentiles.

    Between two known percentiles, and beyond the outer ones, the logarithm of the value is linear
    in the normal quantile: a log-normal in pieces. ``points`` are ``(share, value)``, rising.
    """

    points: tuple[tuple[float, float], ...]

    def at(self, share: float) -> float:
        """The value that ``share`` (above 0, below 1) of all values are below."""
        points = self.points
        upper = next((i for i, p in enumerate(points) if p[0] >= share), len(points) - 1)
        upper = max(1, upper)
        (share_a, value_a), (share_b, value_b) = points[upper - 1], points[upper]
        z_a, z_b = _NORMAL.inv_cdf(share_a), _NORMAL.inv_cdf(share_b)
        slope = (math.log(value_b) - math.log(value_a)) / (z_b - z_a)
        return math.exp(math.log(value_a) + slope * (_NORMAL.inv_cdf(share) - z_a))

    def draw(self, dice: random.Random) -> float:
        """A value. The rarest in a thousand at either end are cut off: no data reaches there."""
        return self.at(dice.uniform(0.001, 0.999))


def _quantiles(p10: float, p50: float, p75: float, p90: float, p99: float) -> Quantiles:
    return Quantiles(((0.1, p10), (0.5, p50), (0.75, p75), (0.9, p90), (0.99, p99)))


TURNS = _quantiles(7, 45, 94, 156, 330)
FIRST_INPUT = _quantiles(15_500, 24_500, 104_000, 259_000, 716_000)
APPENDED = _quantiles(184, 646, 1_500, 3_500, 16_000)
OUTPUT = _quantiles(105, 216, 429, 899, 3_700)
TOOL_GAP_S = _quantiles(4, 9, 19, 71, 612)
PERSON_GAP_S = _quantiles(16, 132, 480, 1_935, 15_000)


class Sender(Enum):
    """Who sends a turn."""

    PERSON = "person"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its answer. Lengths in tokens of the served model, about."""

    sender: Sender
    gap_s: float
    """Since the answer before; 0 for the first turn."""
    appended: int
    """New input of this turn, the first turn's instructions included."""
    output: int
    rewrites: bool
    """Whether the client dropped everything between the first turn and this one: it changed its
    history, or the history would no longer fit."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What conversations are scaled to."""

    scale: float = 16.0
    """Lengths in tokens are divided by this."""
    context: int = 7400
    """Tokens that prompt and answer of a turn may have together. A tenth below a window of 8,192:
    text has only about as many tokens as it should."""
    max_turns: int = 400


def conversation(seed: str, shape: Shape) -> tuple[Turn, ...]:
    """The turns of one session: the same for the same seed and shape.

    No turn's prompt and answer together exceed ``shape.context``: a first input has at most half
    of it, an appended input an eighth, an answer an eighth, and a turn that would not fit
    rewrites.
    """
    dice = random.Random(seed)
    count = max(1, min(shape.max_turns, round(TURNS.draw(dice))))
    turns: list[Turn] = []
    first = 0
    length = 0
    sender = Sender.PERSON
    for number in range(count):
        output = _tokens(OUTPUT, dice, shape, shape.context // 8)
        gap_s = 0.0
        rewrites = False
        if number == 0:
            appended = _tokens(FIRST_INPUT, dice, shape, shape.context // 2)
            first = appended + output + _TURN_TOKENS
        else:
            appended = _tokens(APPENDED, dice, shape, shape.context // 8)
            gap_s = (TOOL_GAP_S if sender is Sender.TOOL else PERSON_GAP_S).draw(dice)
            rewrites = dice.random() < REWRITE_SHARE
            rewrites = rewrites or length + appended + output + _TURN_TOKENS > shape.context
        length = (first if rewrites else length) + appended + output + _TURN_TOKENS
        turns.append(Turn(sender, gap_s, appended, output, rewrites))
        sender = Sender.TOOL if dice.random() < TOOL_SHARE else Sender.PERSON
    return tuple(turns)


def _tokens(of: Quantiles, dice: random.Random, shape: Shape, most: int) -> int:
    return max(1, min(most, round(of.draw(dice) / shape.scale)))
