"""Do predictions fit what happens?"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cache_tiers.returns.curve import Curve

_REPORTED: Final = 200
"""Gaps that a report is about."""
_TESTED: Final = (64, 128)
"""Gaps that a test is about: the fewer see a large shift sooner, the more see a small one too."""
_FEWEST: Final = 24
_EVERY: Final = 8
"""Gaps from one test to the next."""
_ALARM: Final = 1e-4
"""The chance of a test to fail if all is well and gaps are independent. They are not: those of one
session are alike. On recorded coding sessions one test in a thousand fails."""
_CALM: Final = 0.05
"""So much likelier than ``_ALARM`` that one is not soon followed by the other."""
_MOST: Final = 1024
"""Tenants remembered: 14 KiB each."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_UNTHINKABLE: Final = -700.0
"""The logarithm of about the least chance that is a number."""


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


class _Seen(NamedTuple):
    """How a gap ended that had been predicted."""

    place: float
    """Where in its distribution it fell, 0 … 1."""
    surprise: float
    """How much less likely than expected the bin was that it ended in, in nats."""


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
    """Where gaps of one tenant fall in the distributions that were predicted for them: if those are
    right, places are spread evenly over 0 … 1 (the probability integral transform; Dawid 1984).

    Predictions are not trusted from a test that finds places less even than by chance until one
    that does not; for the first it takes a chance of 1 in 10,000, for the second of 1 in 20."""

    def __init__(self) -> None:
        self.trusted = True
        """Whether predictions have fitted lately."""
        self._seen: deque[_Seen] = deque(maxlen=max(_TESTED))
        self._dither = 0.0
        self._since = 0
        """Gaps since predictions were last found not to fit."""

    @property
    def place(self) -> float:
        """Of the latest gap, 0 … 1; there must be one."""
        return self._seen[-1].place

    def saw(self, outlook: Curve, gap_s: float) -> bool:
        """A gap ended for which that was predicted. True when what was learned so far is of no use
        any more.

        Where in its bin a gap ends no prediction says, so its place is spread over the bin
        (Czado, Gneiting and Held 2009), here by a fixed sequence.
        """
        begins, ends = outlook.bin_around(gap_s)
        self._dither = (self._dither + _GOLDEN) % 1.0
        place = 1.0 - begins + self._dither * (begins - ends)
        likelihood = math.log(begins - ends) if begins > ends else _UNTHINKABLE
        self._seen.append(_Seen(place, outlook.expected_likelihood - likelihood))
        self._since += 1
        if self._since < _FEWEST or self._since % _EVERY:
            return False
        latest = list(self._seen)
        tested = [latest[-count:] for count in {min(count, self._since) for count in _TESTED}]
        if any(_strays(some, _ALARM) for some in tested):
            self.trusted = False
            self._since = 0
            return True
        self.trusted = self.trusted or not any(_strays(some, _CALM) for some in tested)
        return False


class Fits:
    """How well returns are predicted: each tenant's for itself, since what one's sessions do says
    nothing about predictions of another's. One thread. Of more tenants than ``_MOST`` those whose
    gaps ended last are remembered."""

    def __init__(self) -> None:
        self.shifts = 0
        """How often a tenant's stopped to fit."""
        self._of: OrderedDict[str, Fit] = OrderedDict()
        self._places: deque[float] = deque(maxlen=_REPORTED)

    def saw(self, tenant: str, outlook: Curve, gap_s: float) -> bool:
        """A gap of the tenant's ended for which that was predicted. True when what was learned of
        its gaps so far is of no use any more."""
        fit = self._of.pop(tenant, None) or Fit()
        self._of[tenant] = fit
        if len(self._of) > _MOST:
            self._of.popitem(last=False)
        trusted = fit.trusted
        is_of_no_use = fit.saw(outlook, gap_s)
        self.shifts += trusted and not fit.trusted
        self._places.append(fit.place)
        return is_of_no_use

    def trusts(self, tenant: str) -> bool:
        """Whether predictions of the tenant's gaps have fitted lately."""
        fit = self._of.get(tenant)
        return fit is None or fit.trusted

    @property
    def distrusted(self) -> int:
        """Tenants whose predictions have not."""
        return sum(not fit.trusted for fit in self._of.values())

    def calibration(self) -> Calibration:
        """Of the latest gaps of all tenants."""
        places = list(self._places)
        count = len(places)

        def before(share: float) -> float:
            return sum(place <= share for place in places) / count if count else share

        return Calibration(count, before(0.1), before(0.5), before(0.9), distance(places))


def _strays(seen: Sequence[_Seen], chance: float) -> bool:
    """Whether places are less even than by that ``chance``, and gaps came as a surprise. If only
    places are not even, gaps were more regular than was dared to predict: that does no harm."""
    if distance(each.place for each in seen) <= critical(len(seen), chance):
        return False
    return sum(each.surprise for each in seen) > 0.0
