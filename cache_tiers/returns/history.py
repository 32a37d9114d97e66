"""What the gaps of one class have been like so far."""

from typing import Final

import numpy as np

from cache_tiers.returns.curve import Grid, Shares

_MOST_RETURNING: Final = 0.999
"""Of those away when a bin begins: nothing is ever certain."""
_EXPOSED: Final = 0.25
"""Of a gap's news, what one brings that is not over."""
_MATERIAL: Final = 1 / 32
"""Hazards are made anew when this share of the class's gaps has come since."""
_LEAST_STRENGTH: Final = 0.4
"""Of what the wider class counts for, in bins that it expects nobody to be away in: so who always
comes later than others is soon believed to."""
_SPREAD: Final = (0.25, 0.5, 0.25)
"""A gap counts in its bin and the two beside it: what took 9 s may well take 11 s."""


class Tally:
    """What one gap adds to a class, by the bin that it ended in: to those that came back in each
    bin, and to those at risk of it, who had not come back before. Shared by all of a grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid: Final = grid
        bins = grid.bins
        self.back: Final = np.zeros((bins + 1, 2, bins))
        """By bin; of the gaps that end beyond the last bin, nobody came back in any."""
        for row in range(bins):
            for step, part in zip((-1, 0, 1), _SPREAD, strict=True):
                self.back[row, 0, min(max(row + step, 0), bins - 1)] += part
        self.back[:, 1] = self.back[:, 0, ::-1].cumsum(axis=1)[:, ::-1]
        self.back[bins, 1] = 1.0
        self.lost: Final = np.zeros((bins + 1, 2, bins))
        """The same for gaps whose end is not known: they lasted through half of that bin."""
        self.lost[:, 1] = np.tri(bins + 1, bins, -1) + 0.5 * np.eye(bins + 1, bins)


class History:
    """An empirical hazard in discrete time: of those still away when a bin began, the share that
    came back in it. The class that this one is a part of counts like ``strength`` further gaps, as
    many in each bin as it expects to be still away (the mean of a beta-Stacy posterior: Walker and
    Muliere 1997), but never by much fewer. Old gaps fade: with every ``half_life`` gaps, all that
    came before count half.

    A gap counts while it lasts: as at risk in every bin that it has passed. Would it count only
    when it is over, long gaps, and those that never end, would come too late to be believed in
    (their delayed entry is that of Kaplan and Meier's estimate, 1958)."""

    __slots__ = (
        "_advantages",
        "_counts",
        "_exposed",
        "_gaps",
        "_half_life",
        "_material",
        "_news",
        "_returning",
        "_strength",
        "_tally",
        "_wider",
    )

    def __init__(self, tally: Tally, *, strength: float, half_life: int) -> None:
        self._tally = tally
        self._strength = strength
        self._half_life = half_life
        self._counts = np.zeros((2, tally.grid.bins))
        self._gaps = 0.0
        self._news = 0
        self._exposed = 0.0
        self._material = 1.0
        self._wider: Shares | None = None
        self._returning: Shares | None = None
        self._advantages: list[float] | None = None

    def came_back(self, place: int, passed: int = 0) -> None:
        """A gap ended in that bin. It has ``passed`` so many bins already, as was told."""
        self._count(self._tally.back[place], passed)

    def was_lost(self, place: int, passed: int = 0) -> None:
        """A gap lasted into that bin, at least."""
        self._count(self._tally.lost[place], passed)

    def lasts(self, place: int, passed: int) -> None:
        """A gap that has passed so many bins, as was told, has lasted until that bin now."""
        self._counts[1, passed:place] += 1.0
        self._exposed += _EXPOSED
        self._look_again()

    def shrink(self, gaps: float) -> None:
        """All that was seen counts as ``gaps`` gaps at most from now on."""
        if self._gaps > gaps:
            self._counts *= gaps / self._gaps
            self._gaps = gaps
            self._wider = None

    def returning(self, wider: Shares) -> Shares:
        """What is expected of a gap, given what the wider class expects. Neither is to be changed;
        the same array is given until something material has changed."""
        if self._returning is None or wider is not self._wider:
            back, at_risk = self._counts
            stay = 1.0 - wider
            still_away = stay.cumprod() / stay
            strength = self._strength * np.maximum(still_away, _LEAST_STRENGTH)
            made = (back + strength * wider) / (at_risk + strength)
            self._returning = np.minimum(made, _MOST_RETURNING, out=made)
            self._wider = wider
            self._advantages = None
            self._material = self._news + self._exposed + _MATERIAL * self._gaps
        return self._returning

    def advantage(self, wider: Shares, place: int) -> float:
        """How much likelier, in nats, a gap that ends in that bin is by ``returning(wider)`` than
        by ``wider`` itself."""
        returning = self.returning(wider)
        if self._advantages is None:
            passed = np.log((1.0 - returning) / (1.0 - wider)).cumsum()
            back = np.log(returning / wider)
            self._advantages = [back[0], *(passed[:-1] + back[1:]).tolist(), passed[-1]]
        return self._advantages[place]

    def _count(self, gap: Shares, passed: int) -> None:
        self._news += 1
        if self._news % self._half_life == 0:
            self._counts *= 0.5
            self._gaps *= 0.5
        self._counts[:, passed:] += gap[:, passed:]
        self._gaps += 1.0
        self._look_again()

    def _look_again(self) -> None:
        if self._news + self._exposed >= self._material:
            self._wider = None
