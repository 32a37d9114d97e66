"""What is believed of gaps before any was seen."""

import math
from typing import Final

import numpy as np

from cache_tiers.returns.curve import Grid, Shares
from cache_tiers.returns.types import Awaits

GAPS: Final = Grid(low=0.05, high=7 * 86_400.0, per_decade=10)
"""Of gaps, in seconds: 50 ms … a week."""
RATIOS: Final = Grid(low=0.01, high=100.0, per_decade=40)
"""Of gaps, in units of what the client said: a bin is 6 % wide."""

_BACK: Final = (0.0, 0.1, 0.5, 0.75, 0.9, 0.99, 0.9995)
"""Shares that are back …"""
_AFTER_S: Final = {
    Awaits.TOOL: (0.05, 4.0, 9.0, 19.0, 71.0, 612.0, GAPS.edges[-1]),
    Awaits.PERSON: (0.05, 16.0, 132.0, 480.0, 1935.0, 15_000.0, GAPS.edges[-1]),
}
"""… after so many seconds, in 710 recorded coding sessions; the ends are guesses."""
_ANNOUNCED_SPREAD: Final = 0.5
"""Of the logarithm of a gap over what was announced: half are within a factor of 1.4. A guess, to
be corrected by what comes."""
_LEAST_GAPS, _LEAST_RATIOS, _MOST = 0.002, 0.0005, 0.9
"""Of those away that come back in any bin (those of ratios are narrower): nothing is impossible,
nothing certain."""


def of_gaps(awaits: Awaits) -> Shares:
    """Over ``GAPS``; the logarithm of a gap is even between two of the figures above."""
    back = np.interp(np.log(GAPS.edges[1:]), np.log(_AFTER_S[awaits]), _BACK)
    return _returning(back, _LEAST_GAPS)


def of_announced() -> Shares:
    """Over ``RATIOS``: log-normal around what was announced."""
    scale = _ANNOUNCED_SPREAD * math.sqrt(2)
    back = [0.5 + 0.5 * math.erf(math.log(edge) / scale) for edge in RATIOS.edges[1:]]
    return _returning(np.array(back), _LEAST_RATIOS)


def _returning(back: Shares, least: float) -> Shares:
    """From the shares that are back when each bin ends."""
    away = np.maximum(1.0 - np.concatenate(([0.0], back)), 1e-9)
    returning: Shares = np.clip(1.0 - away[1:] / away[:-1], least, _MOST)
    return returning
