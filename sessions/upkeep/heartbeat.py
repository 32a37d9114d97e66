"""That this process lives: it tells the database, in a task of its own, which no chore holds up.

It also knows since when the database hears it without a gap. After an outage nobody was seen for a
while; so a process takes others for dead only when they had as long to be seen as it had.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database
from sessions.ports import Clock
from sessions.types import StateUnavailable
from sessions.upkeep.instances import DEAD_AFTER, beat
from sessions.upkeep.reaper import SharedChore

_log: Final = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
"""Between two beats."""
MAX_GAP: Final = timedelta(seconds=4 * INTERVAL_S)
"""Between two beats that count as heard without a gap."""


@dataclass(slots=True)
class Heartbeat:
    """Beats. Lives on the event loop."""

    database: Database
    clock: Clock
    instance: str
    on_fault: Callable[[], None] = lambda: None
    """Told of a beat that failed."""
    interval_s: float = INTERVAL_S
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _failing: bool = False
    _heard: tuple[datetime, datetime] | None = None
    """The first and the last beat that the database heard without a gap."""

    async def run(self) -> None:
        """Beat after beat, until it is stopped."""
        while not self._stopped.is_set():
            await self.beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self.interval_s)

    def stop(self) -> None:
        """Have ``run`` return when the beat is over."""
        self._stopped.set()

    async def beat(self) -> None:
        """Once. Raises nothing: what fails is counted, and logged the first time."""
        try:
            async with self.database.begin() as connection:
                now = self.clock()
                await beat(connection, self.instance, now)
        except Exception as error:  # noqa: BLE001 - the next beat may go well, whatever it is
            self.on_fault()
            # The database itself logs that it fails.
            if not self._failing and not isinstance(error, StateUnavailable):
                _log.warning("the heartbeat failed", exc_info=True)
            self._failing = True
            return
        if self._failing:
            self._failing = False
            _log.info("the heartbeat works again")
        since = self._heard[0] if self._heard and _close(self._heard[1], now) else now
        self._heard = (since, now)

    def judges(self, now: datetime) -> bool:
        """Whether the database has heard this process long enough for others to be dead."""
        if self._heard is None:
            return False
        since, last = self._heard
        return _close(last, now) and last - since >= DEAD_AFTER

    def judging(self, chore: SharedChore) -> SharedChore:
        """``chore``, which is about the dead, done only when this process can know them."""

        async def judged(connection: AsyncConnection, now: datetime, limit: int) -> int:
            return await chore(connection, now, limit) if self.judges(now) else 0

        return judged


def _close(earlier: datetime, later: datetime) -> bool:
    # A clock that was set back says nothing of the time between.
    return abs(later - earlier) <= MAX_GAP
