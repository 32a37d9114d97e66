"""The loop that keeps house: one in every API process.

Some chores are about this process's own engine; every process does its own. Others are about all
sessions; whoever holds the coordinator's lease does them, and the database checks the lease's
fencing token in each transaction, so that a process that slept while its lease ended changes
nothing. Every chore does a bounded batch, and what it does to a session is an event, written with
it. No error ends the loop: it is logged once, counted, and the chore tried again in the next round.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.coordination.port import Coordinator, Lease
from sessions.database import Database
from sessions.ports import Clock
from sessions.types import StateUnavailable
from sessions.upkeep.fences import StaleLease, accept, newest_token

_log: Final = logging.getLogger(__name__)

LEASE: Final = "reaper"
INTERVAL_S: Final = 5.0
"""Between two rounds, give or take a fifth, so that processes do not move in step."""
BATCH: Final = 100
"""Rows that one transaction of a shared chore changes."""
_BATCHES: Final = 10
"""Of one chore in one round; the next round goes on."""
_LEASE_S: Final = 30.0
_OWN_S: Final = 20.0
"""What an own chore may take in one round."""

OwnChore = Callable[[], Awaitable[object]]
"""About this process's engine."""
SharedChore = Callable[[AsyncConnection, datetime, int], Awaitable[int]]
"""About everybody's sessions: changes at most so many rows in the transaction given, and says how
many."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Reaper:
    """Runs chores, by name. Lives on the event loop."""

    database: Database
    coordinator: Coordinator
    clock: Clock
    instance: str
    own: Mapping[str, OwnChore]
    shared: Mapping[str, SharedChore]
    on_fault: Callable[[str], None] = lambda _: None
    """Told the name of a chore that failed."""
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _failing: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Round after round, until it is stopped."""
        while not self._stopped.is_set():
            await self.round()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), INTERVAL_S * random.uniform(0.8, 1.2))

    def stop(self) -> None:
        """Have ``run`` return when the round is over: no unit of work is cut in two."""
        self._stopped.set()

    async def round(self) -> dict[str, int]:
        """Every chore once. Raises nothing; returns how many rows each shared chore changed, and is
        empty where another process has the lease."""
        mine = (self._try(name, _timed(chore())) for name, chore in self.own.items())
        await asyncio.gather(*mine)
        lease = await self._try("lease", self._acquire())
        done: dict[str, int] = {}
        if lease is None:
            return done
        for name, chore in self.shared.items():
            if self._stopped.is_set():
                break
            try:
                done[name] = await self._try(name, self._batches(lease, chore)) or 0
            except StaleLease:
                break
            if done[name]:
                _log.info("upkeep: %s: %d", name, done[name])
        return done

    async def _acquire(self) -> Lease | None:
        async with self.database.begin() as connection:
            floor = await newest_token(connection, LEASE)
        return await self.coordinator.acquire(LEASE, self.instance, _LEASE_S, floor)

    async def _batches(self, lease: Lease, chore: SharedChore) -> int:
        async def batch(connection: AsyncConnection) -> int:
            await accept(connection, lease)
            return await chore(connection, self.clock(), BATCH)

        done = 0
        for _ in range(_BATCHES):
            changed = await self.database.run(batch)
            done += changed
            if changed < BATCH:
                break
        return done

    async def _try(self, name: str, work: Awaitable[Result]) -> Result | None:
        try:
            result = await work
        except StaleLease:
            raise
        except Exception as error:  # noqa: BLE001 - the loop goes on, whatever a chore meets
            self.on_fault(name)
            # The database itself logs that it fails.
            if name not in self._failing and not isinstance(error, StateUnavailable):
                _log.warning("upkeep: %s failed", name, exc_info=True)
            self._failing.add(name)
            return None
        if name in self._failing:
            self._failing.discard(name)
            _log.info("upkeep: %s works again", name)
        return result


async def _timed(work: Awaitable[Result]) -> Result:
    return await asyncio.wait_for(work, _OWN_S)
