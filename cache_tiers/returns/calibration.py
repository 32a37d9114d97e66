"""Do predictions fit what happens?"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the latest predictions went."""

    gaps: int
    """Of how many."""
    before_10: float
    """The share (0 … 1) that was back before the time predicted for 10 % of them."""
    before_50: float
    before_90: float
    distance: float
    """The largest distance (0 … 1) between the shares predicted and those seen, over all
    quantiles (Kolmogorov-Smirnov)."""


def distance(places: Iterable[float]) -> float:
    """Between the distribution of ``places`` (each 0 … 1) and an even one; 0 for no places."""
    ranked = sorted(places)
    count = len(ranked)
    return max(
        (max((i + 1) / count - place, place - i / count) for i, place in enumerate(ranked)),
        default=0.0,
    )


def critical(count: int, significance: float) -> float:
    """The distance that ``count`` independent, even places exceed with at most the chance
    ``significance``: the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (1990)."""
    return math.sqrt(math.log(2 / significance) / (2 * count))


class Fit:
    """Watches where gaps fall in the distributions predicted for them: if those are right, places
    are spread evenly over 0 … 1 (the probability integral transform)."""

    def __init__(self) -> None:
        self.trusted = True
        self.shifts = 0
        """How often predictions stopped fitting."""
        self._places: deque[float] = deque(maxlen=_KEPT)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._dither = 0.0
        self._unchecked = 0

    def saw(self, before: float, after: float) -> bool:
        """A gap ended in a bin that began with a share of ``before`` predicted to be back and
        ended with ``after``. Whether that is when predictions stopped fitting.

        Where in its bin it ended no prediction says, so its place is spread over the bin
        (Czado, Gneiting and Held 2009), by a fixed sequence instead of by chance.
        """
        self._dither = (self._dither + _GOLDEN) % 1.0
        place = before + self._dither * (after - before)
        self._places.append(place)
        self._recent.append(place)
        self._unchecked += 1
        if self._unchecked < _EVERY or len(self._recent) < _FEWEST:
            return False
        self._unchecked = 0
        off, count = distance(self._recent), len(self._recent)
        if self.trusted and off > max(critical(count, _ALARM), _MATERIAL):
            self.trusted = False
            self.shifts += 1
            self._recent.clear()
            return True
        if not self.trusted and off < critical(count, _CALM):
            self.trusted = True
        return False

    def calibration(self) -> Calibration:
        """Of the latest gaps, 200 at most."""
        places = self._places
        count = len(places)

        def before(share: float) -> float:
            return sum(place <= share for place in places) / count if count else share

        return Calibration(count, before(0.1), before(0.5), before(0.9), distance(places))


_KEPT: Final = 200
_RECENT: Final = 64
_FEWEST: Final = 24
_EVERY: Final = 4
_ALARM: Final = 1e-6
_CALM: Final = 0.1
_MATERIAL: Final = 0.25
