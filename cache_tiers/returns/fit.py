"""Do predictions fit what happens?"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

_REPORTED: Final = 200
"""Gaps that a report is about."""
_TESTED: Final = 64
"""Gaps that a test is about: more see less of a shift and later, fewer more by chance."""
_FEWEST: Final = 24
_EVERY: Final = 8
"""Gaps from one test to the next."""
_ALARM: Final = 1e-6
"""The chance of a test to fail if all is well. Gaps of one session come together and are alike, and
tests overlap: they fail far more often than independent ones would."""
_CALM: Final = 0.05
"""Higher than ``_ALARM`` by far, so that one does not follow the other back and forth."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the latest predictions went."""

    gaps: int
    """Of how many: 200 at most. Without any, the figures are those of predictions that fit."""
    before_10: float
    """The share (0 … 1) that was back before the time predicted for 10 %."""
    before_50: float
    before_90: float
    distance: float
    """The largest distance (0 … 1) of a share seen from the share predicted, of any share."""


def distance(places: Iterable[float]) -> float:
    """Of the distribution of ``places`` (each 0 … 1) from an even one (Kolmogorov-Smirnov); 0 for
    no places."""
    ranked = np.sort(np.fromiter(places, float))
    count = len(ranked)
    if not count:
        return 0.0
    steps = np.arange(count + 1) / count
    return float(max((steps[1:] - ranked).max(), (ranked - steps[:-1]).max()))


def critical(count: int, chance: float) -> float:
    """The distance that ``count`` independent, even places pass with that ``chance`` at most: the
    inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990)."""
    return math.sqrt(math.log(2 / chance) / (2 * count))


class Fit:
    """Where gaps fall in the distributions that were predicted for them: if those are right, places
    are spread evenly over 0 … 1 (the probability integral transform; Dawid 1984). One thread."""

    def __init__(self) -> None:
        self.trusted = True
        """Whether predictions have fitted lately."""
        self.shifts = 0
        """How often they stopped to fit."""
        self._places: deque[float] = deque(maxlen=_REPORTED)
        self._tested: deque[float] = deque(maxlen=_TESTED)
        self._dither = 0.0
        self._untested = 0

    def saw(self, before: float, after: float) -> bool:
        """A gap ended in a bin that was predicted to begin with a share of ``before`` back and to
        end with ``after``. True when what was learned so far is of no use any more.

        Where in its bin a gap ends no prediction says, so its place is spread over the bin
        (Czado, Gneiting and Held 2009), here by a fixed sequence.
        """
        self._dither = (self._dither + _GOLDEN) % 1.0
        place = before + self._dither * (after - before)
        self._places.append(place)
        self._tested.append(place)
        self._untested += 1
        count = len(self._tested)
        if self._untested < _EVERY or count < _FEWEST:
            return False
        self._untested = 0
        off = distance(self._tested)
        if off > critical(count, _ALARM):
            self.shifts += self.trusted
            self.trusted = False
            self._tested.clear()
            return True
        self.trusted = self.trusted or off < critical(count, _CALM)
        return False

    def calibration(self) -> Calibration:
        """Of the latest gaps."""
        count = len(self._places)

        def before(share: float) -> float:
            return sum(place <= share for place in self._places) / count if count else share

        return Calibration(count, before(0.1), before(0.5), before(0.9), distance(self._places))
