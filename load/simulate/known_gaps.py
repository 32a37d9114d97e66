"""Gaps as they are distributed in a whole trace, known beforehand: what there is to be learned."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from cache_tiers.returns.curve import Curve, Grid
from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey
from load.traces import Request

_GRID: Final = Grid(low=0.05, high=7 * 86_400.0, per_decade=20)
_CERTAIN: Final = 1 - 1e-6


def gap_curves(requests: Iterable[Request]) -> dict[Awaits, Curve]:
    """The gaps behind tools and those behind answers to persons. Who never comes back counts as
    away for good."""
    counts = {awaits: np.zeros(_GRID.bins + 1) for awaits in Awaits}
    before: dict[str, Request] = {}
    for request in requests:
        last = before.get(request.session)
        if last is not None and request.gap_s is not None:
            counts[last.awaits][_GRID.bin_of(request.gap_s)] += 1
        before[request.session] = request
    for last in before.values():
        counts[last.awaits][-1] += 1
    curves = {}
    for awaits, each in counts.items():
        away = np.cumsum(each[::-1])[::-1]
        back = np.minimum(each[:-1] / np.maximum(away[:-1], 1), _CERTAIN)
        curves[awaits] = Curve(_GRID, back)
    return curves


class KnownGaps:
    """``Returns`` that knows these distributions, and learns nothing."""

    def __init__(self, curves: Mapping[Awaits, Curve]) -> None:
        self._curves = curves
        self._away: dict[SessionKey, tuple[Curve, float]] = {}

    def ended(self, end: TurnEnd, now: float) -> None:
        """See ``Returns``."""
        self._away[end.session] = self._curves[end.awaits], now

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

    def away_since(self, session: SessionKey) -> float | None:
        """See ``Returns``."""
        away = self._away.get(session)
        return None if away is None else away[1]

    @property
    def trusted(self) -> bool:
        """See ``Returns``."""
        return True
