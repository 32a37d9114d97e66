"""How many of those that came so far went on: an empirical survival with shrinkage. Pure."""

Cell = tuple[int, ...]
"""A class of cases, from the general to the particular: ``(2, 7)`` is a part of ``(2,)``, which is
a part of ``()``, which is everything."""

_STRENGTH = 32.0
"""A cell counts as if it had seen this many cases that went as in the cell it is a part of: one
with few cases of its own says what the larger one says."""
_MEMORY = 20_000.0
"""Cases remembered: at twice as many all counts are halved, so that what is old fades."""


class Survival:
    """Takes as much memory as there are cells, which the caller bounds. One thread."""

    def __init__(self, prior: float) -> None:
        """``prior``: the share, above 0 and below 1, to believe in before anything was seen."""
        self._prior = prior
        self._reached: dict[Cell, float] = {}
        self._went_on: dict[Cell, float] = {}

    def reached(self, cell: Cell) -> None:
        """One more came as far as ``cell``."""
        _count(self._reached, cell, 1.0)
        if self._reached[()] >= 2 * _MEMORY:
            for counts in (self._reached, self._went_on):
                for each in counts:
                    counts[each] /= 2

    def went_on(self, cell: Cell, part: float = 1.0) -> None:
        """One of those that reached ``cell`` went on, or ``part`` (0 … 1) of it."""
        _count(self._went_on, cell, part)

    def share(self, cell: Cell) -> float:
        """Of those in ``cell``, how many will go on; above 0 and below 1."""
        share = self._prior
        for end in range(len(cell) + 1):
            reached = self._reached.get(cell[:end], 0.0)
            # One that was counted before a halving and goes on after it would count double.
            went_on = min(self._went_on.get(cell[:end], 0.0), reached)
            share = (went_on + _STRENGTH * share) / (reached + _STRENGTH)
        return share


def _count(counts: dict[Cell, float], cell: Cell, by: float) -> None:
    for end in range(len(cell) + 1):
        counts[cell[:end]] = counts.get(cell[:end], 0.0) + by
