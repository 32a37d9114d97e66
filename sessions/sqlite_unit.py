"""A unit of work on SQLite in one trip to the connection's thread.

A trip costs more than a statement, and what waits for a unit waits for all of its trips. So the
whole unit runs there, on a plain connection of SQLAlchemy, from its first statement to its commit.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Dialect, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import StaticPool

from sessions.sqlite_connection import OneTripConnection

Result = TypeVar("Result")


async def driver_of(connection: AsyncConnection) -> OneTripConnection:
    """What ``connection`` is made on; it outlives it, in its pool."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, OneTripConnection)
    return driver


async def run_there(
    driver: OneTripConnection, work: Callable[[AsyncConnection], Awaitable[Result]]
) -> Result:
    """``work`` as one transaction, and its result. Nobody else may use the connection meanwhile.
    ``work`` may wait for nothing but its connection and runs in another thread: it changes nothing
    but rows and what is its own. Raises what ``work`` and SQLAlchemy raise."""
    engine = driver.unit_engine or _engine_on(driver)
    thread: Any = driver  # whose own methods have no types

    def unit() -> Result:
        driver.undo_unended()
        with engine.begin() as plain:
            there = cast(AsyncConnection, _There(plain))
            return _finished(work(there))

    result: Result = await thread._execute(unit)
    return result


class _There:
    """A connection in its own thread, with the part of AsyncConnection that units use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> CursorResult[Any]:
        return self._connection.execute(statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> CursorResult[Any]:
        return self._connection.exec_driver_sql(statement, parameters)


def _finished(work: Awaitable[Result]) -> Result:
    """The result of work that waits for nothing."""
    coroutine = cast(Coroutine[Any, Any, Result], work)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    coroutine.close()
    raise RuntimeError("a unit of work waited for something other than its connection")


def _engine_on(driver: OneTripConnection) -> Engine:
    """An engine on the driver's own SQLite connection, which it never closes."""

    def connection() -> sqlite3.Connection:
        return driver._conn

    engine = create_engine(
        "sqlite://",
        creator=connection,
        poolclass=StaticPool,
        pool_reset_on_return=None,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(plain: Connection) -> None:
        plain.exec_driver_sql("BEGIN IMMEDIATE")

    driver.unit_engine = engine
    return engine
