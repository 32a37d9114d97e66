"""The session database as its tests use it: opened, kept from working, and looked into from
outside. One test runs on SQLite and on PostgreSQL alike."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import asyncpg

from sessions import postgresql, sqlite
from sessions.database import Database, open_database


class Backend(Protocol):
    """One empty database."""

    url: str

    async def open(self, *, patient: bool = True) -> Database:
        """Migrated; to be closed by the test. One that is not patient waits for no lock."""
        ...

    async def ask(self, question: str) -> object:
        """One statement from outside, committed; the first value it gives."""
        ...

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Nobody else can use it meanwhile."""
        ...

    def refusing(self, what: str) -> AbstractAsyncContextManager[None]:
        """It fails every ``INSERT ON table`` or ``DELETE ON table`` meanwhile."""
        ...


class SqliteBackend:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite+aiosqlite:///{path}"

    async def open(self, *, patient: bool = True) -> Database:
        pragmas = sqlite._PRAGMAS if patient else ("PRAGMA busy_timeout = 1", *sqlite._PRAGMAS[1:])
        with patch.object(sqlite, "_PRAGMAS", pragmas):
            return await open_database(self.url)

    async def ask(self, question: str) -> object:
        connection = self._connect()
        try:
            row = connection.execute(question).fetchone()
        finally:
            connection.close()
        return row[0] if row else None

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    @asynccontextmanager
    async def refusing(self, what: str) -> AsyncIterator[None]:
        await self.ask(f"CREATE TRIGGER no BEFORE {what} BEGIN SELECT RAISE(ABORT, 'no'); END")
        try:
            yield
        finally:
            await self.ask("DROP TRIGGER no")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None)


class PostgresBackend:
    """A database of a server."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self, *, patient: bool = True) -> Database:
        with patch.object(postgresql, "LOCK_S", postgresql.LOCK_S if patient else 0.3):
            return await open_database(self.url)

    async def ask(self, question: str) -> object:
        async with self._connected() as connection:
            return await connection.fetchval(question)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        async with self._connected() as connection, connection.transaction():
            await connection.execute("LOCK TABLE sessions, turns, audit IN ACCESS EXCLUSIVE MODE")
            yield

    @asynccontextmanager
    async def refusing(self, what: str) -> AsyncIterator[None]:
        table = what.rpartition(" ")[2]
        await self.ask(
            "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
        )
        await self.ask(f"CREATE TRIGGER no BEFORE {what} FOR EACH ROW EXECUTE FUNCTION no()")
        try:
            yield
        finally:
            await self.ask(f"DROP TRIGGER no ON {table}")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator["asyncpg.Connection"]:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            yield connection
        finally:
            await connection.close()
