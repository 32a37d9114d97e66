"""A survival curve over log-spaced bins, made once and looked up often."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
"""One number a bin."""


class Grid:
    """Bins of time: the first begins at 0, those after ``low`` are ``per_decade`` to a factor of
    ten, and nothing is said about what lies beyond ``high``, the end of the last."""

    def __init__(self, low: float, high: float, per_decade: int) -> None:
        count = math.ceil(math.log10(high / low) * per_decade)
        edges = [low * 10 ** (i / per_decade) for i in range(count)]
        self.edges: Final[tuple[float, ...]] = (0.0, *edges, high)
        """Where bins begin, and where the last one ends."""
        self.bins: Final = count + 1
        self.widths: Final[Shares] = np.diff(np.array(self.edges))

    def bin_of(self, time: float) -> int:
        """The bin that ``time`` (not negative) lies in; ``bins`` for a time beyond the last."""
        return bisect_right(self.edges, time) - 1


class Curve:
    """How many are still away, and how fast they come back. Immutable; hazards are constant within
    a bin. Times are in units of the caller's."""

    __slots__ = ("_cumulated", "_edges", "_rates")

    def __init__(self, grid: Grid, returning: Shares) -> None:
        """``returning``: of those away at a bin's beginning, the share (0 … below 1) that is back
        at its end."""
        passed = -np.log1p(-returning)
        self._edges: Sequence[float] = grid.edges
        self._rates: list[float] = [*(passed / grid.widths).tolist(), 0.0]
        self._cumulated: list[float] = [0.0, *np.cumsum(passed).tolist()]

    def cumulated(self, time: float) -> float:
        """The hazard up to ``time``, cumulated: minus the logarithm of the survival."""
        at = bisect_right(self._edges, time) - 1
        return self._cumulated[at] + self._rates[at] * (time - self._edges[at])

    def rate(self, time: float) -> float:
        """The hazard just then, per unit of time; 0 beyond the last bin."""
        return self._rates[bisect_right(self._edges, time) - 1]

    def reached(self, cumulated: float) -> float:
        """When the cumulated hazard is so high; ``math.inf`` for never."""
        if cumulated >= self._cumulated[-1]:
            return math.inf
        at = bisect_right(self._cumulated, cumulated) - 1
        return self._edges[at] + (cumulated - self._cumulated[at]) / self._rates[at]


class CurveOutlook:
    """An ``Outlook`` that follows a curve, one unit of which is ``unit_s`` seconds."""

    __slots__ = ("_curve", "_unit_s")

    def __init__(self, curve: Curve, unit_s: float = 1.0) -> None:
        self._curve = curve
        self._unit_s = unit_s

    def survival(self, away_s: float) -> float:
        """See ``Outlook``."""
        return math.exp(-self._curve.cumulated(away_s / self._unit_s))

    def hazard(self, away_s: float) -> float:
        """See ``Outlook``."""
        return self._curve.rate(away_s / self._unit_s) / self._unit_s

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        """See ``Outlook``."""
        if share >= 1.0:
            return math.inf
        passed = self._curve.cumulated(away_s / self._unit_s)
        # Rounding must not put it before the time that it is asked at.
        return max(away_s, self._unit_s * self._curve.reached(passed - math.log1p(-share)))
