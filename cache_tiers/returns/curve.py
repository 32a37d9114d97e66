"""A survival curve over log-spaced bins: made once, looked up often."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
"""One number a bin; of a curve: of those away when the bin begins, the share that is back when it
ends."""


class Grid:
    """Bins of time: the first begins at 0, the next at ``low``, and so on, ``per_decade`` to a
    factor of ten. Nothing is said of what lies beyond ``high``, where the last one ends."""

    def __init__(self, low: float, high: float, per_decade: int) -> None:
        count = math.ceil(math.log10(high / low) * per_decade)
        edges = [low * 10 ** (i / per_decade) for i in range(count)]
        self.edges: Final[tuple[float, ...]] = (0.0, *edges, high)
        """Where bins begin, and where the last one ends."""
        self.bins: Final = count + 1
        self.widths: Final[Shares] = np.diff(np.array(self.edges))

    def bin_of(self, time: float) -> int:
        """The bin that ``time`` (not negative) lies in; ``bins`` for what is beyond the last."""
        return bisect_right(self.edges, time) - 1


class Curve:
    """An ``Outlook`` with a constant hazard in each bin. Immutable.

    Plain arrays: a look-up takes less than a microsecond, numpy needs that to begin."""

    __slots__ = ("_cumulated", "_edges", "_expected", "_rates", "_unit_s")

    def __init__(self, grid: Grid, returning: Shares, unit_s: float = 1.0) -> None:
        """``returning``: 0 … below 1. ``unit_s``: what the grid's times are counted in."""
        passed = -np.log1p(-returning)
        self._unit_s = unit_s
        self._edges: Sequence[float] = grid.edges
        self._rates = array("d", (passed / grid.widths).tobytes())
        self._rates.append(0.0)
        self._cumulated = array("d", [0.0])
        self._cumulated.frombytes(passed.cumsum().tobytes())
        self._expected: float | None = None

    def survival(self, away_s: float) -> float:
        """See ``Outlook``."""
        return math.exp(-self._passed(away_s / self._unit_s))

    def hazard(self, away_s: float) -> float:
        """See ``Outlook``."""
        return self._rates[bisect_right(self._edges, away_s / self._unit_s) - 1] / self._unit_s

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        """See ``Outlook``."""
        if share >= 1.0:
            return math.inf
        passed = self._passed(away_s / self._unit_s) - math.log1p(-share)
        if passed > self._cumulated[-1]:
            return math.inf
        at = bisect_right(self._cumulated, passed) - 1
        rate = self._rates[at]
        time = self._edges[at] + ((passed - self._cumulated[at]) / rate if rate else 0.0)
        # Rounding must not put it before the time that it is asked at.
        return max(away_s, time * self._unit_s)

    def bin_around(self, away_s: float) -> tuple[float, float]:
        """The survival when the bin with ``away_s`` in it begins and when it ends; what is beyond
        the last bin is one that never ends."""
        at = bisect_right(self._edges, away_s / self._unit_s) - 1
        begins = math.exp(-self._cumulated[at])
        if at + 1 == len(self._cumulated):
            return begins, 0.0
        return begins, math.exp(-self._cumulated[at + 1])

    @property
    def expected_likelihood(self) -> float:
        """The logarithm of the chance of the bin that the gap will end in, as it is expected to be:
        minus the entropy, in nats."""
        if self._expected is None:
            away = np.exp(-np.array(self._cumulated))
            chances = np.append(away[:-1] - away[1:], away[-1])
            chances = chances[chances > 0]
            self._expected = float((chances * np.log(chances)).sum())
        return self._expected

    def _passed(self, time: float) -> float:
        """The hazard up to ``time``, cumulated: minus the logarithm of the survival."""
        at = bisect_right(self._edges, time) - 1
        return self._cumulated[at] + self._rates[at] * (time - self._edges[at])
