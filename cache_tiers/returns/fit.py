"""Do predictions fit what happens?"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

_REPORTED: Final = 200
"""Gaps that a report is about."""
_TESTED: Final = (64, 128)
"""Gaps that a test is about: the fewer see a large shift sooner, the more see a small one too."""
_FEWEST: Final = 24
_EVERY: Final = 8
"""Gaps from one test to the next."""
_ALARM: Final = 1e-5
"""The chance of a test to fail if all is well and gaps are independent. They are not: those of one
session are alike. On recorded coding sessions, 4 … 64 at a time, it is some 1e-4."""
_CALM: Final = 0.05
"""So much likelier than ``_ALARM`` that one is not soon followed by the other."""
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
        self._dither = 0.0
        self._since = 0
        """Gaps since predictions were last found not to fit."""

    def saw(self, before: float, after: float) -> bool:
        """A gap ended in a bin that was predicted to begin with a share of ``before`` back and to
        end with ``after``. True when what was learned so far is of no use any more.

        Where in its bin a gap ends no prediction says, so its place is spread over the bin
        (Czado, Gneiting and Held 2009), here by a fixed sequence.
        """
        self._dither = (self._dither + _GOLDEN) % 1.0
        self._places.append(before + self._dither * (after - before))
        self._since += 1
        if self._since < _FEWEST or self._since % _EVERY:
            return False
        latest = list(self._places)
        counts = {min(count, self._since) for count in _TESTED}
        offs = {count: distance(latest[-count:]) for count in counts}
        if any(off > critical(count, _ALARM) for count, off in offs.items()):
            self.shifts += self.trusted
            self.trusted = False
            self._since = 0
            return True
        if all(off < critical(count, _CALM) for count, off in offs.items()):
            self.trusted = True
        return False

    def calibration(self) -> Calibration:
        """Of the latest gaps."""
        count = len(self._places)

        def before(share: float) -> float:
            return sum(place <= share for place in self._places) / count if count else share

        return Calibration(count, before(0.1), before(0.5), before(0.9), distance(self._places))
