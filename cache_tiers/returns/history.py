"""What one class of gaps has been like so far."""

from typing import Final

import numpy as np

from cache_tiers.returns.curve import Curve, Grid, Shares

_MOST_RETURNING: Final = 0.999
"""Of those in a bin: nothing is ever certain."""
_MATERIAL: Final = 1 / 32
"""A curve is made anew when this share of its class's gaps has come since."""


class History:
    """Counts of gaps by bin, and the curve that follows from them and from the wider class.

    Of those that were still away when a bin began, the share that came back in it is an empirical
    hazard in discrete time; the wider class's counts as ``strength`` further observations of every
    bin (the mean of a beta posterior).
    """

    def __init__(
        self, grid: Grid, wider: "History | Shares", *, strength: float, memory: float
    ) -> None:
        """``wider``: the class that this one is a part of, or hazards to believe in at first.
        ``memory``: gaps after which older ones begin to fade."""
        self.grid = grid
        self._wider = wider
        self._strength = strength
        self._memory = memory
        self._back = np.zeros(grid.bins + 1)
        self._lost = np.zeros(grid.bins + 1)
        self._gaps = 0.0
        self._news = 0.0
        self._returning: Shares | None = None
        self._curve: Curve | None = None
        self._age = 0
        self._wider_age = -1

    def came_back(self, time: float) -> None:
        """A gap of the class was so long."""
        self._back[self.grid.bin_of(time)] += 1.0
        self._counted()

    def was_lost(self, time: float) -> None:
        """A gap of the class was at least so long."""
        self._lost[self.grid.bin_of(time)] += 1.0
        self._counted()

    def fade(self, left: float) -> None:
        """All counts are worth ``left`` (0 … 1) of what they were."""
        self._back *= left
        self._lost *= left
        self._gaps *= left
        self._returning = None

    def curve(self) -> Curve:
        """What is expected of a gap of this class."""
        returning = self.returning()
        if self._curve is None:
            self._curve = Curve(self.grid, returning)
        return self._curve

    def returning(self) -> Shares:
        """Of those away at each bin's beginning, the share that comes back in it."""
        wider = self._wider if isinstance(self._wider, np.ndarray) else self._wider.returning()
        wider_age = 0 if isinstance(self._wider, np.ndarray) else self._wider.age
        if self._returning is None or self._wider_age != wider_age:
            # Whoever was lost in a bin is taken to have been away through half of it.
            left = np.cumsum((self._back + self._lost)[::-1])[::-1]
            at_risk = left[:-1] - 0.5 * self._lost[:-1]
            returning = (self._back[:-1] + self._strength * wider) / (at_risk + self._strength)
            self._returning = np.minimum(returning, _MOST_RETURNING)
            self._curve = None
            self._age += 1
            self._wider_age = wider_age
            self._news = 0.0
        return self._returning

    @property
    def age(self) -> int:
        """How often the hazards have changed."""
        return self._age

    def _counted(self) -> None:
        self._gaps += 1.0
        self._news += 1.0
        if self._gaps > self._memory:
            self.fade(0.5)
        elif self._news >= _MATERIAL * self._gaps:
            self._returning = None
