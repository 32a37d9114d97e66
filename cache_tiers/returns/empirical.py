"""When will a session be back? Learned from those that came back."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cache_tiers.returns.calibration import Calibration, Fit
from cache_tiers.returns.curve import CurveOutlook
from cache_tiers.returns.history import History
from cache_tiers.returns.prior import GAPS, RATIOS, of_announced, of_gaps
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import SessionKey, tenant_of

_SESSION_STRENGTH: Final = 6.0
_STRENGTH: Final = 16.0
_SESSION_MEMORY: Final = 128.0
_MEMORY: Final = 2_000.0
_MOST_CLASSES: Final = 16_384
_MOST_AWAY: Final = 65_536
_KEPT_AFTER_SHIFT: Final = 0.02

Name = tuple[str, ...]


@dataclass(slots=True)
class _Away:
    end: TurnEnd
    since: float
    history: History
    unit_s: float
    outlook: CurveOutlook | None = None


class EmpiricalReturns:
    """``Returns`` from empirical hazards of nested classes: tool or person, its tool's name, its
    tenant, its session; each believes the wider one until it has seen enough of its own."""

    def __init__(self) -> None:
        self._roots = {
            (awaits, False): History(GAPS, of_gaps(awaits), strength=_STRENGTH, memory=_MEMORY)
            for awaits in Awaits
        } | {
            (awaits, True): History(RATIOS, of_announced(), strength=_STRENGTH, memory=_MEMORY)
            for awaits in Awaits
        }
        self._classes: OrderedDict[Name, History] = OrderedDict()
        self._away: OrderedDict[SessionKey, _Away] = OrderedDict()
        self._fit = Fit()

    def ended(self, end: TurnEnd, now: float) -> None:
        """See ``Returns``."""
        self.forget(end.session, now)
        announced = end.expected_s is not None and end.expected_s > 0
        unit_s = end.expected_s if announced and end.expected_s else 1.0
        self._away[end.session] = _Away(end, now, self._path(end)[-1], unit_s)
        if len(self._away) > _MOST_AWAY:
            self.forget(next(iter(self._away)), now)

    def returned(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        away = self._away.get(session)
        if away is None:
            return
        outlook = self._outlook(away)
        gap = max(0.0, now - away.since) / away.unit_s
        grid = away.history.grid
        at = grid.bin_of(gap)
        before = 1.0 - outlook.survival(grid.edges[at] * away.unit_s)
        after = 1.0 if at == grid.bins else 1.0 - outlook.survival(grid.edges[at + 1] * away.unit_s)
        del self._away[session]
        if self._fit.saw(before, after):
            for history in (*self._roots.values(), *self._classes.values()):
                history.fade(_KEPT_AFTER_SHIFT)
        for history in self._path(away.end):
            history.came_back(gap)

    def forget(self, session: SessionKey, now: float) -> None:
        """See ``Returns``."""
        away = self._away.pop(session, None)
        if away is not None:
            gap = max(0.0, now - away.since) / away.unit_s
            for history in self._path(away.end):
                history.was_lost(gap)

    def outlook(self, session: SessionKey) -> CurveOutlook | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else self._outlook(away)

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
        """How often predictions stopped fitting."""
        return self._fit.shifts

    def calibration(self) -> Calibration:
        """How the latest predictions went."""
        return self._fit.calibration()

    def _outlook(self, away: _Away) -> CurveOutlook:
        if away.outlook is None:
            away.outlook = CurveOutlook(away.history.curve(), away.unit_s)
        return away.outlook

    def _path(self, end: TurnEnd) -> list[History]:
        """The classes of a gap, from the widest to its own."""
        announced = bool(end.expected_s and end.expected_s > 0)
        path = [self._roots[end.awaits, announced]]
        kind = f"{end.awaits} announced" if announced else str(end.awaits)
        names: list[Name] = [(kind, tenant_of(end.session)), (kind, end.session)]
        if end.tool:
            names = [(*name[:1], end.tool, *name[1:]) for name in [(kind,), *names]]
        for name in names:
            path.append(self._class(name, path[-1], end.session in name))
        return path

    def _class(self, name: Name, wider: History, of_session: bool) -> History:
        history = self._classes.get(name)
        if history is None:
            history = self._classes[name] = History(
                wider.grid,
                wider,
                strength=_SESSION_STRENGTH if of_session else _STRENGTH,
                memory=_SESSION_MEMORY if of_session else _MEMORY,
            )
            if len(self._classes) > _MOST_CLASSES:
                self._classes.popitem(last=False)
        else:
            self._classes.move_to_end(name)
        return history
