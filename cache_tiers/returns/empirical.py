"""When will a session be back? Learned from those that came back."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cache_tiers.returns.classes import Classes, Path, path_of
from cache_tiers.returns.curve import Curve
from cache_tiers.returns.fit import Calibration, Fit
from cache_tiers.returns.prior import GAPS, RATIOS, of_announced, of_gaps
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey

_MOST_AWAY: Final = 32_768
"""Sessions that are away and known to be: beyond that, those that left first are forgotten."""


@dataclass(frozen=True, slots=True)
class _Away:
    awaits: Awaits
    path: Path
    since: float
    outlook: Curve
    unit_s: float | None
    """What the client said that the gap will last."""


class EmpiricalReturns:
    """``Returns`` by empirical hazards of nested classes (``Classes``), tools and persons apart. No
    tenant's gaps are predicted from another's.

    Of a gap whose length the client announced, the ratio to what was announced is predicted
    instead, by how well the same classes' announcements held before. When predictions stop fitting
    what happens (``Fit``), what was learned is let go, and ``trusted`` is False until those made
    from newer gaps fit. Deterministic. A session takes some 5 KiB; all that is remembered is
    bounded, by 250 MiB at the worst: tens of thousands away, every gap announced.
    """

    def __init__(self) -> None:
        self._gaps = {awaits: Classes(GAPS, of_gaps(awaits)) for awaits in Awaits}
        self._ratios = {awaits: Classes(RATIOS, of_announced()) for awaits in Awaits}
        self._away: OrderedDict[SessionKey, _Away] = OrderedDict()
        self._fit = Fit()

    def ended(self, end: TurnEnd, now: float) -> None:
        """See ``Returns``. Of a session that was away already the gap begins anew, and nothing is
        learned from what has passed of it: a client may say as often as it likes how it goes on."""
        self._away.pop(end.session, None)
        path, unit_s = path_of(end), _announced(end)
        if unit_s is None:
            outlook = Curve(GAPS, self._gaps[end.awaits].expected(path))
        else:
            outlook = Curve(RATIOS, self._ratios[end.awaits].expected(path), unit_s)
        self._away[end.session] = _Away(end.awaits, path, now, outlook, unit_s)
        if len(self._away) > _MOST_AWAY:
            self.forget(next(iter(self._away)), now)

    def returned(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        away = self._away.pop(session, None)
        if away is None:
            return
        gap_s = max(0.0, now - away.since)
        if self._fit.saw(away.outlook, gap_s):
            for classes in (*self._gaps.values(), *self._ratios.values()):
                classes.shifted()
        self._gaps[away.awaits].came_back(away.path, GAPS.bin_of(gap_s))
        if away.unit_s is not None:
            place = RATIOS.bin_of(gap_s / away.unit_s)
            self._ratios[away.awaits].came_back(away.path, place)

    def forget(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        away = self._away.pop(session, None)
        if away is None:
            return
        gap_s = max(0.0, now - away.since)
        self._gaps[away.awaits].was_lost(away.path, GAPS.bin_of(gap_s))
        if away.unit_s is not None:
            place = RATIOS.bin_of(gap_s / away.unit_s)
            self._ratios[away.awaits].was_lost(away.path, place)

    def outlook(self, session: SessionKey) -> Outlook | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away.outlook

    def away_since(self, session: SessionKey) -> float | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away.since

    @property
    def trusted(self) -> bool:
        """See ``Returns``."""
        return self._fit.trusted

    @property
    def shifts(self) -> int:
        """How often predictions stopped to fit."""
        return self._fit.shifts

    def calibration(self) -> Calibration:
        """How the latest predictions went."""
        return self._fit.calibration()


def _announced(end: TurnEnd) -> float | None:
    """In seconds; None where nothing was announced that a gap can be. 0 is back at once, which is
    the shortest gap there is."""
    said = end.expected_s
    if said is None or not 0.0 <= said < math.inf:
        return None
    return min(max(said, GAPS.edges[1]), GAPS.edges[-1])
