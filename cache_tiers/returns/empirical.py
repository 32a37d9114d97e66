"""When will a session be back? Learned from those that came back."""

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

from cache_tiers.returns.classes import Classes, Path, path_of
from cache_tiers.returns.curve import Curve
from cache_tiers.returns.fit import Calibration, Fits
from cache_tiers.returns.prior import GAPS, RATIOS, of_announced, of_gaps
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey, tenant_of

_MOST_AWAY: Final = 32_768
"""Sessions that are away and known to be: beyond that, those that left first are forgotten."""
_OVERDUE: Final = 0.99
"""Of gaps that lasted as announced, those that are over by then: of one that is not, what was
announced says nothing any more."""
_MOST_LOOKS: Final = 128
"""At a time, in some 20 µs each: after a quiet hour everybody who is away is due at once."""
_LOOKS: Final = tuple(
    place for place, edge in enumerate(GAPS.edges[:-1]) if edge >= 10.0 and place % 5 == 0
)
"""Bins at which a gap that has reached them is counted so far, and predicted anew: two in a
decade, from half a minute on."""


class _Said(NamedTuple):
    """An announcement."""

    at: float
    unit_s: float
    awaits: Awaits
    path: Path


@dataclass(slots=True)
class _Away:
    awaits: Awaits
    path: Path
    since: float
    first: Curve
    """Predicted when it began."""
    outlook: Curve | None
    """As it is predicted now; None until it is asked for."""
    unit_s: float | None
    """What the client said that the gap will last."""
    first_said: _Said | None
    """What it said first of this gap."""
    overdue: bool = False
    """Whether it has lasted for much longer than the client said."""
    looks: int = 0
    """At it so far."""

    @property
    def passed(self) -> int:
        """Bins that it is known to have passed."""
        return _LOOKS[self.looks - 1] if self.looks else 0

    @property
    def next_look(self) -> float:
        """When it is due; of a gap that was announced, when that is overdue."""
        if self.unit_s is not None:
            return math.inf if self.overdue else self.since + self.first.quantile(_OVERDUE)
        return self.since + GAPS.edges[_LOOKS[self.looks]] if self.looks < len(_LOOKS) else math.inf


class EmpiricalReturns:
    """``Returns`` by empirical hazards of nested classes (``Classes``), tools and persons apart. No
    tenant's gaps are predicted from another's.

    Of a gap whose length the client announced, the ratio to what was announced is predicted
    instead, by how well the same classes' announcements held before. When predictions stop fitting
    a tenant's gaps (``Fits``), what was learned of them is let go, and they are not trusted until
    those made from newer gaps fit. Who is still away counts too, and is predicted anew now and
    then: who never comes back is learned of long before anybody says so. Deterministic. A session
    takes some 5 KiB; all that is remembered is bounded, by 265 MiB at the worst: tens of thousands
    away, every gap announced, a thousand tenants.
    """

    def __init__(self) -> None:
        self._gaps = {awaits: Classes(GAPS, of_gaps(awaits)) for awaits in Awaits}
        self._ratios = {awaits: Classes(RATIOS, of_announced()) for awaits in Awaits}
        self._away: OrderedDict[SessionKey, _Away] = OrderedDict()
        self._due: list[tuple[float, int, SessionKey, _Away]] = []
        """When to look at whom again, the first first; some are back."""
        self._serial = 0
        self._fits = Fits()

    def ended(self, end: TurnEnd, now: float) -> None:
        """See ``Returns``. Of a session that was away already the gap begins anew, and nothing is
        learned from what has passed of it, but that what was announced first did not hold: a client
        may say as often as it likes how it goes on, and is believed less and less."""
        self._look(now)
        before = self._away.pop(end.session, None)
        path, unit_s = path_of(end), _announced(end)
        first_said = None if unit_s is None else _Said(now, unit_s, end.awaits, path)
        if before is not None and before.first_said is not None:
            first_said = before.first_said
            ratio = (now - first_said.at) / first_said.unit_s
            if ratio > 1.0:
                self._ratios[first_said.awaits].was_lost(first_said.path, RATIOS.bin_of(ratio))
        if unit_s is None:
            outlook = Curve(GAPS, self._gaps[end.awaits].expected(path))
        else:
            outlook = Curve(RATIOS, self._ratios[end.awaits].expected(path), unit_s)
        away = _Away(end.awaits, path, now, outlook, outlook, unit_s, first_said)
        self._away[end.session] = away
        self._look_later(end.session, away)
        if len(self._away) > _MOST_AWAY:
            self.forget(next(iter(self._away)), now)

    def returned(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        self._look(now)
        away = self._away.pop(session, None)
        if away is None:
            return
        gap_s = max(0.0, now - away.since)
        if self._fits.saw(tenant_of(session), away.first, gap_s):
            for classes in (*self._gaps.values(), *self._ratios.values()):
                classes.shifted(away.path)
        # A request's first byte counts, and what has passed may have been looked at since.
        place = max(GAPS.bin_of(gap_s), away.passed)
        self._gaps[away.awaits].came_back(away.path, place, away.passed)
        if away.unit_s is not None:
            place = RATIOS.bin_of(gap_s / away.unit_s)
            self._ratios[away.awaits].came_back(away.path, place)

    def forget(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        away = self._away.pop(session, None)
        if away is None:
            return
        gap_s = max(0.0, now - away.since)
        self._gaps[away.awaits].was_lost(away.path, GAPS.bin_of(gap_s), away.passed)
        if away.unit_s is not None:
            place = RATIOS.bin_of(gap_s / away.unit_s)
            self._ratios[away.awaits].was_lost(away.path, place)

    def _look(self, now: float) -> None:
        """At those who are still away when they were to be looked at."""
        for _ in range(_MOST_LOOKS):
            if not self._due or self._due[0][0] > now:
                return
            _, _, session, away = heapq.heappop(self._due)
            if self._away.get(session) is not away:
                continue
            away.outlook = None
            if away.unit_s is not None:
                away.overdue = True
                continue
            passed = away.passed
            while away.next_look <= now:
                away.looks += 1
            self._gaps[away.awaits].lasts(away.path, away.passed, passed)
            self._look_later(session, away)

    def _look_later(self, session: SessionKey, away: _Away) -> None:
        at = away.next_look
        if at < math.inf:
            self._serial += 1
            heapq.heappush(self._due, (at, self._serial, session, away))

    def outlook(self, session: SessionKey) -> Outlook | None:
        """See ``Returns``."""
        away = self._away.get(session)
        if away is None:
            return None
        if away.outlook is None:
            away.outlook = Curve(GAPS, self._gaps[away.awaits].expected(away.path))
        return away.outlook

    def trusts(self, session: SessionKey) -> bool:
        """See ``Returns``."""
        return self._fits.trusts(tenant_of(session))

    def away_since(self, session: SessionKey) -> float | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away.since

    @property
    def distrusted(self) -> int:
        """Tenants whose predictions do not fit."""
        return self._fits.distrusted

    @property
    def shifts(self) -> int:
        """How often a tenant's predictions stopped to fit."""
        return self._fits.shifts

    def calibration(self) -> Calibration:
        """How the latest predictions went."""
        return self._fits.calibration()


def _announced(end: TurnEnd) -> float | None:
    """In seconds; None where nothing was announced that a gap can be. 0 is back at once, which is
    the shortest gap there is."""
    said = end.expected_s
    if said is None or not 0.0 <= said < math.inf:
        return None
    return min(max(said, GAPS.edges[1]), GAPS.edges[-1])
