"""The session database: opened, migrated, and used one transaction at a time."""

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from alembic.util import CommandError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sessions import migrations, postgresql, sqlite
from sessions.line import Line, Ticket
from sessions.outage import Outage
from sessions.repository import SessionRepository
from sessions.sqlite_connection import OneTripConnection
from sessions.sqlite_unit import driver_of, run_there
from sessions.types import OutcomeUnknown, StateUnavailable

_log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""How often a database that cannot be reached is tried."""
TRIES: Final = 4
"""Of a unit of work that others get in the way of."""

Result = TypeVar("Result")


class Database:
    """Durable state of all sessions. Used on one event loop, by any number of tasks."""

    def __init__(
        self, engine: AsyncEngine, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        # SQLite has one connection here: units have their turn one after the other.
        self._alone = engine.dialect.name == "sqlite"
        self._line = Line(sqlite.WAIT_S)
        self._reader = engine if self._alone else postgresql.reader(engine)
        self._claim: int | None = None
        self._driver: OneTripConnection | None = None
        self._unreachable = Outage(RETRY_S, monotonic)
        self._healthy = True
        self._faults = 0

    @property
    def alone(self) -> bool:
        """Whether nobody but this process changes the database, and its units have their turn one
        after the other: with SQLite."""
        return self._alone

    @property
    def faults(self) -> int:
        """Units of work that the database failed since it was opened."""
        return self._faults

    @property
    def healthy(self) -> bool:
        """Whether the last unit of work went well."""
        return self._healthy

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SessionRepository]:
        """``begin``, with the repository that most units of work need."""
        async with self.begin() as connection:
            yield SessionRepository(connection)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One unit of work: committed when the block ends, undone when it raises. Every repository
        is made on the connection, so that one unit may change rows of several.

        Raises StateUnavailable for whatever the database does: locked, full, damaged, gone;
        OutcomeUnknown when it did so while it committed. Waits a bounded time for its turn. Do
        nothing slow inside: other units wait for this one.
        """
        with self._noted() as progress:
            async with self._connected() as connection, connection.begin():
                yield connection
                progress.commits = True

    def ticket(self) -> Ticket | None:
        """A place for a unit, in front of every one that is asked for later: those find it done, or
        find that the database failed. None where units have no order, but with ``alone``."""
        return self._line.join() if self._alone else None

    async def run(
        self,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        ticket: Ticket | None = None,
    ) -> Result:
        """``work`` as one unit, with its ``ticket``, and its result. Where the database undoes it
        for the sake of another unit that runs at once, it runs again, at most ``TRIES`` times in
        all. It may wait for nothing but its connection, and change nothing but rows and what is its
        own: SQLite runs it in a thread. Raises as ``begin`` does."""
        if self._alone:
            return await self._run_in_turn(work, ticket)
        for _ in range(TRIES - 1):
            try:
                return await self._run_once(work)
            except StateUnavailable as error:
                if not _may_run_again(error.__cause__):
                    raise
        return await self._run_once(work)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """``work``, which changes nothing, and its result; otherwise as ``run``. Where units have
        no order each of its statements is by itself, which saves two trips to the server."""
        if self._alone:
            return await self.run(work)
        with self._noted():
            async with self._reached(self._reader) as connection:
                return await work(connection)

    async def _run_once(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        async with self.begin() as connection:
            return await work(connection)

    async def _run_in_turn(
        self, work: Callable[[AsyncConnection], Awaitable[Result]], ticket: Ticket | None
    ) -> Result:
        async def noting(connection: AsyncConnection) -> Result:
            result = await work(connection)
            progress.commits = True
            return result

        with self._noted() as progress:
            async with self._in_turn(ticket):
                driver = self._driver
                if driver is None or not driver.is_open:
                    async with self._reached(self._engine) as connection:
                        driver = self._driver = await driver_of(connection)
                return await run_there(driver, noting)

    async def migrate(self, url: URL) -> None:
        """Bring the schema to this version's. Raises StateUnavailable."""
        server = url.get_backend_name() == "postgresql"
        engine = postgresql.create_migrator(url) if server else self._engine
        try:
            async with engine.begin() as connection:
                if server:
                    await postgresql.lock_migrations(connection)
                await connection.run_sync(migrations.upgrade)
        except DBAPIError as error:
            raise StateUnavailable(f"The session database cannot be used: {error.orig}") from error
        except CommandError as error:
            raise StateUnavailable(
                "The session database was written by a newer version of Valet."
            ) from error
        finally:
            if engine is not self._engine:
                await engine.dispose()

    def claim(self) -> None:
        """Be the process that serves on this database, where there can be but one. Raises
        StateUnavailable when there is one."""
        if self._alone:
            try:
                self._claim = sqlite.claim(self._engine.url)
            except OSError as error:
                raise StateUnavailable(f"The session database cannot be used: {error}") from error

    async def close(self) -> None:
        """Close every connection. Call it when no unit of work runs."""
        await self._engine.dispose()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        async with self._in_turn(), self._reached(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def _in_turn(self, ticket: Ticket | None = None) -> AsyncIterator[None]:
        """One at a time, in order, where there is one connection."""
        if not self._alone:
            yield
            return
        ticket = ticket or self._line.join()
        try:
            try:
                await ticket.turn()
            except TimeoutError:
                raise PoolTimeout("the database had no time") from None
            yield
        finally:
            ticket.give_up()

    @asynccontextmanager
    async def _reached(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        if not self._unreachable.admits():
            raise StateUnavailable("The session database is unavailable.")
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(engine.connect())
            except DBAPIError:
                self._unreachable.failed()
                raise
            self._unreachable.ended()
            yield connection

    @contextmanager
    def _noted(self) -> Iterator["_Progress"]:
        """How a unit went; what the database raises becomes the caller's error."""
        progress = _Progress()
        try:
            yield progress
        except (DBAPIError, PoolTimeout) as error:
            self._failed(error)
            failure = OutcomeUnknown if progress.commits else StateUnavailable
            raise failure("The session database is unavailable.") from error
        if not self._healthy:
            self._healthy = True
            _log.info("the session database works again")

    def _failed(self, error: DBAPIError | PoolTimeout) -> None:
        if _may_run_again(error) or is_refusal(error):
            return
        self._faults += 1
        if self._healthy:
            self._healthy = False
            cause = error.orig if isinstance(error, DBAPIError) else error
            _log.warning("the session database failed, requests go on without it: %s", cause)


@dataclass(slots=True)
class _Progress:
    """How far a unit is."""

    commits: bool = False


async def open_database(url: str, *, serving: bool = False) -> Database:
    """Open ``url`` (``sqlite:///PATH`` or ``postgresql+asyncpg://…``), migrating it as needed; a
    file is made when there is none. ``serving``: to be the process that serves on it, where there
    can be but one.

    Raises StateUnavailable when it cannot be opened; the message says why.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StateUnavailable("The database URL is not one.") from None
    try:
        database = Database(_create_engine(parsed))
    except OSError as error:
        raise StateUnavailable(f"The session database cannot be opened: {error}") from error
    try:
        if serving:
            database.claim()
        await database.migrate(parsed)
    except BaseException:
        await database.close()
        raise
    return database


def is_refusal(error: BaseException | None) -> bool:
    """Whether the database works, and refuses what it was to store."""
    if isinstance(error, IntegrityError | DataError):
        return True
    return isinstance(error, DBAPIError) and postgresql.refuses_values(error)


def _create_engine(url: URL) -> AsyncEngine:
    match url.get_backend_name():
        case "sqlite":
            return sqlite.create_engine(url)
        case "postgresql":
            return postgresql.create_engine(url)
        case other:
            raise StateUnavailable(f"No support for the database {other!r}.")


def _may_run_again(error: BaseException | None) -> bool:
    return isinstance(error, DBAPIError) and postgresql.may_run_again(error)
