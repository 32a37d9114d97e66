"""Sessions between two turns, and for which of them is planned. Scheduler thread only."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable

from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import SessionKey

MOST_PLANNED_FOR = 512
"""Sessions that a plan looks at, those whose turns ended last: each costs the scheduler's thread
some 20 µs."""
MOST_RESTING = 65_536
"""Sessions that are away and not planned for."""
WAKE_S = 60.0
"""So long before an announced return its session is planned for again: longer than a load takes."""


class AwaySessions:
    """Times are in seconds of one clock that does not go back. ``away_since`` tells when a gap
    began; None where it is not known any more."""

    def __init__(self, away_since: Callable[[SessionKey], float | None]) -> None:
        self._away_since = away_since
        self.planned: OrderedDict[SessionKey, TurnEnd] = OrderedDict()
        """Those for which is planned, the latest last."""
        self._resting: OrderedDict[SessionKey, TurnEnd] = OrderedDict()
        """Those for which nothing is planned: parked, or longer away than the others."""
        self._wakes: list[tuple[float, int, TurnEnd]] = []
        """When to plan for whom again, the first first; some are back."""
        self._serial = 0

    def get(self, session: SessionKey) -> TurnEnd | None:
        """How its turn ended; None for one that is not away."""
        return self.planned.get(session) or self._resting.get(session)

    def left(self, end: TurnEnd, now: float) -> None:
        """The session is away from now on."""
        self._resting.pop(end.session, None)
        self._plan_for(end, now)

    def back(self, session: SessionKey) -> None:
        """It is not away any more, or gone."""
        self._resting.pop(session, None)
        self.planned.pop(session, None)

    def rest(self, session: SessionKey) -> None:
        """Nothing is planned for it from now on, until it has left again."""
        end = self.planned.pop(session, None)
        if end is not None:
            self._resting[session] = end
            if len(self._resting) > MOST_RESTING:
                self._resting.popitem(last=False)

    def wake(self, now: float) -> bool:
        """Plan again for those that had to rest for others and whose announced return is near;
        whether there are any."""
        woken = False
        while self._wakes and self._wakes[0][0] <= now:
            _, _, end = heapq.heappop(self._wakes)
            if self._rests(end):
                del self._resting[end.session]
                self._plan_for(end, now)
                woken = True
        return woken

    @property
    def wakes_at(self) -> float:
        """When ``wake`` is due; ``math.inf`` for not before somebody leaves."""
        return self._wakes[0][0] if self._wakes else math.inf

    def _plan_for(self, end: TurnEnd, now: float) -> None:
        self.planned[end.session] = end
        self.planned.move_to_end(end.session)
        if len(self.planned) > MOST_PLANNED_FOR:
            oldest = next(iter(self.planned.values()))
            self.rest(oldest.session)
            self._wake_later(oldest, now)

    def _wake_later(self, end: TurnEnd, now: float) -> None:
        """One that rests for others, if its return was announced and is not near."""
        since = self._away_since(end.session)
        if since is None or end.expected_s is None:
            return
        wake_at = since + end.expected_s - WAKE_S
        if now < wake_at < math.inf:
            self._serial += 1
            heapq.heappush(self._wakes, (wake_at, self._serial, end))
            if len(self._wakes) > 2 * MOST_RESTING:
                self._wakes = [each for each in self._wakes if self._rests(each[2])]
                heapq.heapify(self._wakes)

    def _rests(self, end: TurnEnd) -> bool:
        return self._resting.get(end.session) is end
