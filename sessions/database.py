"""The session database: opened, migrated, and used one transaction at a time."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic.util import CommandError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from sessions import migrations, sqlite
from sessions.repository import SessionRepository
from sessions.types import StateUnavailable

_log = logging.getLogger(__name__)


class Database:
    """Durable state of all sessions. Used on one event loop, by any number of tasks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._healthy = True
        self._faults = 0

    @property
    def faults(self) -> int:
        """Units of work that the database failed since it was opened."""
        return self._faults

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SessionRepository]:
        """One unit of work: committed when the block ends, undone when it raises.

        Raises StateUnavailable for whatever the database does: locked, full, damaged, gone. Waits
        a bounded time for its turn. Do nothing slow inside: other units wait for this one.
        """
        try:
            async with self._engine.begin() as connection:
                yield SessionRepository(connection)
        except (DBAPIError, PoolTimeout) as error:
            self._failed(error)
            raise StateUnavailable("The session database is unavailable.") from error
        if not self._healthy:
            self._healthy = True
            _log.info("the session database works again")

    async def migrate(self) -> None:
        """Bring the schema to this version's. Raises StateUnavailable."""
        try:
            async with self._engine.begin() as connection:
                await connection.run_sync(migrations.upgrade)
        except DBAPIError as error:
            raise StateUnavailable(f"The session database cannot be used: {error.orig}") from error
        except CommandError as error:
            raise StateUnavailable(
                "The session database was written by a newer version of Valet."
            ) from error

    async def close(self) -> None:
        """Close the file. Call it when no unit of work runs."""
        await self._engine.dispose()

    def _failed(self, error: DBAPIError | PoolTimeout) -> None:
        self._faults += 1
        if self._healthy:
            self._healthy = False
            cause = error.orig if isinstance(error, DBAPIError) else error
            _log.warning("the session database failed, requests go on without it: %s", cause)


async def open_database(url: str) -> Database:
    """Open ``url`` (``sqlite:///PATH``), creating and migrating it as needed.

    Raises StateUnavailable when it cannot be opened; the message says why.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StateUnavailable("The database URL is not one.") from None
    if parsed.get_backend_name() != "sqlite":
        raise StateUnavailable(f"No support for the database {parsed.get_backend_name()!r}.")
    try:
        database = Database(sqlite.create_engine(parsed))
    except OSError as error:
        raise StateUnavailable(f"The session database cannot be opened: {error}") from error
    try:
        await database.migrate()
    except BaseException:
        await database.close()
        raise
    return database
