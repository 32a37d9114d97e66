"""What is believed of gaps before any was seen."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from cache_tiers.returns.curve import Grid, Shares
from cache_tiers.returns.types import Awaits

GAPS: Final = Grid(low=0.05, high=7 * 86_400.0, per_decade=10)
"""Of gaps, in seconds: 50 ms … a week."""
RATIOS: Final = Grid(low=0.01, high=100.0, per_decade=40)
"""Of gaps, in units of the length that the client announced."""

_QUANTILES: Final[dict[Awaits, Sequence[tuple[float, float]]]] = {
    Awaits.TOOL: [(0.05, 0.0), (4, 0.1), (9, 0.5), (19, 0.75), (71, 0.9), (612, 0.99)],
    Awaits.PERSON: [(0.05, 0.0), (16, 0.1), (132, 0.5), (480, 0.75), (1935, 0.9), (15_000, 0.99)],
}
"""Seconds by share that is back: 710 recorded coding sessions."""
_AT_LEAST: Final = 0.002
"""Of those away that come back in any bin: nothing is impossible."""
_ANNOUNCED_SPREAD: Final = 0.5
"""Of the logarithm of a gap over what was announced: half are within a factor of 1.4."""


def of_gaps(awaits: Awaits) -> Shares:
    """Of those away at each bin of ``GAPS``, the share that comes back in it."""
    points = [*_QUANTILES[awaits], (GAPS.edges[-1], 0.9995)]
    times, shares = zip(*points, strict=True)
    back = np.interp(np.log(GAPS.edges[1:]), np.log(times), shares)
    return _returning(np.concatenate(([0.0], back)))


def of_announced() -> Shares:
    """The same of ``RATIOS``: log-normal around what was announced."""
    scale = _ANNOUNCED_SPREAD * math.sqrt(2)
    back = [0.5 + 0.5 * math.erf(math.log(edge) / scale) for edge in RATIOS.edges[1:]]
    return _returning(np.array([0.0, *back]))


def _returning(back: Shares) -> Shares:
    """From the shares that are back at each edge."""
    away = np.maximum(1.0 - back, 1e-9)
    returning: Shares = np.clip(1.0 - away[1:] / away[:-1], _AT_LEAST, 0.9)
    return returning
