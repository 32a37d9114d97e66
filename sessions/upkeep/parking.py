"""Parks sessions that have been idle for long: a chore about this process's own engine."""

from datetime import datetime, timedelta
from typing import Final

from sessions.ports import Clock
from sessions.service import SessionService
from sessions.types import SessionBusy, SessionNotFound

_A_ROUND: Final = 16


class IdleParking:
    """Goes through the idle sessions of one process, the longest idle first."""

    def __init__(
        self, sessions: SessionService, clock: Clock, instance: str, after: timedelta
    ) -> None:
        """``after`` is how long a session may be idle."""
        self._sessions = sessions
        self._clock = clock
        self._instance = instance
        self._after = after
        # A session that cannot be parked stays idle; the next round goes on behind it.
        self._place: tuple[datetime, str, str] | None = None

    async def __call__(self) -> int:
        """One round; how many sessions it tried to park. Raises what the engine and the database
        raise."""
        before = self._clock() - self._after
        async with self._sessions.units.begin() as repo:
            idle = await repo.idle_since(self._instance, before, self._place, _A_ROUND)
        for session in idle:
            self._place = session.last_active_at, session.tenant, session.id
            try:
                await self._sessions.park(session.tenant, session.id, by="reaper")
            except (SessionBusy, SessionNotFound):
                continue
        if len(idle) < _A_ROUND:
            self._place = None
        return len(idle)
