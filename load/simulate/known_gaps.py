"""Gaps as they are distributed in a whole trace, known beforehand: what there is to be learned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cache_tiers.returns.curve import Curve, Grid
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey
from load.simulate.source import origin
from load.traces import Request

_GRID: Final = Grid(low=0.05, high=7 * 86_400.0, per_decade=20)
_CERTAIN: Final = 1 - 1e-6
_STRENGTH: Final = 4.0
"""A session's own gaps weigh as many as they are, everybody's as so many."""

_Counts = NDArray[np.float64]
"""Gaps by bin; the last is for those that never end."""


@dataclass(frozen=True, slots=True)
class GapCurves:
    """How gaps are distributed, of tools and of persons."""

    everybody: Mapping[Awaits, Curve]
    own: Mapping[tuple[str, Awaits], Curve]
    """Of each session of the trace: its own gaps, with a little of everybody's."""


def gaps_of(requests: Iterable[Request]) -> GapCurves:
    """Of a trace. Who never comes back counts as away for good."""
    everybody = {awaits: np.zeros(_GRID.bins + 1) for awaits in Awaits}
    own: dict[tuple[str, Awaits], _Counts] = {}

    def count(last: Request, place: int) -> None:
        everybody[last.awaits][place] += 1
        own.setdefault((last.session, last.awaits), np.zeros(_GRID.bins + 1))[place] += 1

    before: dict[str, Request] = {}
    for request in requests:
        last = before.get(request.session)
        if last is not None and request.gap_s is not None:
            count(last, _GRID.bin_of(request.gap_s))
        before[request.session] = request
    for last in before.values():
        count(last, _GRID.bins)
    usual = {awaits: each / max(1.0, each.sum()) for awaits, each in everybody.items()}
    return GapCurves(
        {awaits: _curve(each) for awaits, each in everybody.items()},
        {name: _curve(each + _STRENGTH * usual[name[1]]) for name, each in own.items()},
    )


def _curve(counts: _Counts) -> Curve:
    away = np.cumsum(counts[::-1])[::-1]
    back = counts[:-1] / np.maximum(away[:-1], 1e-9)
    return Curve(_GRID, np.minimum(back, _CERTAIN))


class KnownGaps:
    """``Returns`` that knows how each session's gaps are distributed, though not in which order
    they come, and learns nothing."""

    def __init__(self, gaps: GapCurves) -> None:
        self._gaps = gaps
        self._away: dict[SessionKey, tuple[Curve, float]] = {}

    def know(self, gaps: GapCurves) -> None:
        """Gaps that begin from now on are distributed like this."""
        self._gaps = gaps

    def ended(self, end: TurnEnd, now: float) -> None:
        """See ``Returns``."""
        own = self._gaps.own.get((origin(end.session), end.awaits))
        self._away[end.session] = own or self._gaps.everybody[end.awaits], now

    def returned(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``Returns``."""
        self._away.pop(session, None)

    def forget(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``Returns``."""
        self._away.pop(session, None)

    def outlook(self, session: SessionKey) -> Outlook | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away[0]

    def trusts(self, session: SessionKey) -> bool:  # noqa: ARG002
        """See ``Returns``."""
        return True

    def away_since(self, session: SessionKey) -> float | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away[1]
