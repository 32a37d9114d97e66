"""aiosqlite's connection with one trip to its thread a statement instead of four.

A trip costs more than most statements: making a cursor, executing, fetching and closing are one.
Results are fetched whole; every query here has a limit.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import aiosqlite
from sqlalchemy import Engine


class OneTripConnection(aiosqlite.Connection):
    """As aiosqlite's, for SQLAlchemy, which needs no more of a cursor than there is here."""

    unit_engine: Engine | None = None
    """Of ``sqlite_unit``."""

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._running and self._connection is not None

    @property
    def is_unended(self) -> bool:
        """Whether a unit that was given up, or whose commit failed, left a transaction behind."""
        return self._conn.in_transaction

    def undo_unended(self) -> None:
        """Undo what such a unit left. Call it in the connection's thread, before a transaction."""
        if self.is_unended:
            self._conn.rollback()

    def cursor(self) -> "OneTripCursor":  # type: ignore[override]
        """Without a trip."""
        return OneTripCursor(self)


class OneTripCursor:
    """One statement and its result. What ``sqlite3.Cursor`` has under the same names."""

    def __init__(self, connection: OneTripConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> "OneTripCursor":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> "OneTripCursor":
        """Run one statement and fetch what it gives. Raises ``sqlite3.Error``."""
        await self._run(partial(_execute, sql, parameters or ()))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> "OneTripCursor":
        """Run one statement once for each of ``parameters``. Raises ``sqlite3.Error``."""
        await self._run(partial(_execute_many, sql, parameters))
        return self

    async def fetchall(self) -> list[Any]:
        """What is left of the result."""
        rows, self._rows = self._rows, []
        return rows

    async def fetchone(self) -> Any:
        """The next row; None behind the last."""
        return self._rows.pop(0) if self._rows else None

    async def close(self) -> None:
        """Nothing: the statement is over since it ran."""

    async def _run(self, statement: "partial[_Result]") -> None:
        connection: Any = self._connection  # whose own methods have no types
        result: _Result = await connection._execute(lambda: statement(connection._conn))
        self._rows, self.description, self.rowcount, self.lastrowid = result


_Result = tuple[list[Any], Any, int, int | None]


def _execute(sql: str, parameters: Sequence[Any], connection: sqlite3.Connection) -> _Result:
    return _taken(connection.execute(sql, parameters))


def _execute_many(
    sql: str, parameters: Iterable[Sequence[Any]], connection: sqlite3.Connection
) -> _Result:
    return _taken(connection.executemany(sql, parameters))


def _taken(cursor: sqlite3.Cursor) -> _Result:
    rows = cursor.fetchall() if cursor.description else []
    result = rows, cursor.description, cursor.rowcount, cursor.lastrowid
    cursor.close()
    return result
