"""Units of work on the database, where what an earlier one could not store is stored first."""

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database, is_refusal
from sessions.line import Ticket
from sessions.repository import SessionRepository
from sessions.types import StateUnavailable

_log = logging.getLogger(__name__)

Write = Callable[[AsyncConnection], Awaitable[None]]
"""Something that another noun stores in the same unit of work. May run again after a failure."""
Writes = Sequence[Write]
Result = TypeVar("Result")

_MAX_POSTPONED = 1024
"""Writes kept in memory while the database fails; of more, the oldest are forgotten."""


class Units:
    """The database as the services of sessions use it. Used on one event loop, by any number of
    tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._postponed: deque[Write] = deque(maxlen=_MAX_POSTPONED)
        self.on_changed: Callable[[str, str], None] = lambda *_: None
        """Told the tenant and id of a session that changed otherwise than by its turns, or is gone:
        whoever keeps something of it in memory forgets it."""

        self.on_late: Callable[[], None] = lambda: None
        """Told that postponed writes are stored: an older turn's may be the newest now."""

    @property
    def alone(self) -> bool:
        """Whether nobody but this process changes the database."""
        return self._database.alone

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[SessionRepository]:
        """One unit; see ``Database.begin``. Raises StateUnavailable."""
        await self._store_postponed()
        async with self._database.begin() as connection:
            yield SessionRepository(connection)

    def ticket(self) -> Ticket | None:
        """A place in front of every unit that is asked for later; see ``Database.ticket``."""
        return self._database.ticket()

    async def run(
        self,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        ticket: Ticket | None = None,
    ) -> Result:
        """``work`` as one unit, again where another one got in its way; see ``Database.run``.
        Raises StateUnavailable."""
        if self._postponed and ticket is not None:
            return await self._run_with_postponed(work, ticket)
        await self._store_postponed()
        return await self._database.run(work, ticket)

    async def _run_with_postponed(
        self, work: Callable[[AsyncConnection], Awaitable[Result]], ticket: Ticket
    ) -> Result:
        """Both in the one place that there is."""
        writes = tuple(self._postponed)

        async def both(connection: AsyncConnection) -> Result:
            await _store(writes, connection)
            return await work(connection)

        try:
            result = await self._database.run(both, ticket)
        except StateUnavailable as error:
            if _is_outage(error):
                raise
            # One of them is refused, and the place is gone.
            await self._store_postponed()
            return await self._database.run(work)
        self._forget(writes)
        return result

    async def read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """``work``, which changes nothing; see ``Database.read``. Raises StateUnavailable."""
        await self._store_postponed()
        return await self._database.read(work)

    def postpone(self, write: Write) -> None:
        """Have ``write``, which changes nothing when it is repeated, stored before the first unit
        that reaches the database. One that the database refuses is dropped."""
        self._postponed.append(write)

    async def _store_postponed(self) -> None:
        """In units of their own, so that no caller is blamed for what is wrong with them. Raises
        StateUnavailable when the database is."""
        writes = tuple(self._postponed)
        if not writes:
            return
        try:
            await self._database.run(partial(_store, writes))
        except Exception as error:
            if _is_outage(error):
                raise
            await self._store_one_by_one(writes)
        else:
            self._forget(writes)

    async def _store_one_by_one(self, writes: Writes) -> None:
        for write in writes:
            if write not in self._postponed:
                continue  # another task was here
            try:
                await self._database.run(write)
            except Exception as error:
                if _is_outage(error):
                    raise
                kind = type(error.__cause__ or error).__name__
                _log.warning("a postponed write was refused and is dropped: %s", kind)
            self._forget((write,))

    def _forget(self, writes: Writes) -> None:
        self.on_late()
        for write in writes:
            # Another task may have stored the same ones; the second time changed nothing.
            if write in self._postponed:
                self._postponed.remove(write)


async def _store(writes: Writes, connection: AsyncConnection) -> None:
    for write in writes:
        await write(connection)


def _is_outage(error: Exception) -> bool:
    """Whether the database failed, and not what it was to store."""
    if not isinstance(error, StateUnavailable):
        return False
    return not is_refusal(error.__cause__)
