"""Everything that is SQLite's own: its pragmas, its transactions, its files.

Another database has a module like this one, and ``database.py`` chooses.
"""

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from sessions.sqlite_connection import OneTripConnection
from sessions.types import StateUnavailable

WAIT_S = 5.0
"""How long a transaction waits for its turn: within this process, and again for another's lock."""

_AGAIN_S = 0.01

_PRAGMAS = (
    # Waiting comes first: switching to WAL may itself meet another process's lock.
    f"PRAGMA busy_timeout = {int(WAIT_S * 1000)}",
    "PRAGMA journal_mode = WAL",
    # With WAL, a killed process loses nothing; a power cut loses the last commits, never order.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
)


def create_engine(url: URL) -> AsyncEngine:
    """An engine of one connection on ``url`` (``sqlite:///path``); opens it at first use.

    One connection, because SQLite has one writer: tasks queue for it in order, where several
    connections would poll each other's locks. Raises OSError when the file cannot be made.
    """
    if url.database and url.database != ":memory:":
        _make_private(Path(url.database))
    path = url.database or ":memory:"

    async def connect() -> OneTripConnection:
        connection = OneTripConnection(lambda: _connect(path), 64)
        connection._thread.daemon = True
        await connection
        return connection

    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        async_creator=connect,
        # Every unit of work ends with a commit or a rollback of its own.
        pool_reset_on_return=None,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=WAIT_S,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def claim(url: URL) -> int | None:
    """Have no other process serve on this file, until the descriptor is closed or this process is
    gone: what it knows of sessions in memory is true only while nobody else changes them. None for
    a database in memory. Raises StateUnavailable when another process has it, OSError."""
    if not url.database or url.database == ":memory:":
        return None
    # A file of its own: closing any descriptor of the database would release SQLite's locks.
    held = os.open(f"{url.database}.serving", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise StateUnavailable(
            "The session database is in use by another Valet; several processes need PostgreSQL."
        ) from None
    return held


def _connect(path: str) -> sqlite3.Connection:
    """Runs in the connection's thread."""
    connection = sqlite3.connect(path)
    deadline = time.monotonic() + WAIT_S
    while not _is_wal(connection) and time.monotonic() < deadline:
        time.sleep(_AGAIN_S)
    return connection


def _is_wal(connection: sqlite3.Connection) -> bool:
    """False where others are just switching to it too: for them SQLite does not wait. What else may
    be wrong, the first statement says."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        return "locked" not in str(error)
    return True


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if isinstance(driver, OneTripConnection) and driver.is_unended:
        connection.exec_driver_sql("ROLLBACK")
    # Taking the lock at once: a transaction that reads first and then finds the database locked
    # cannot wait, only fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        # By name, not through a descriptor: closing one would release this process's locks.
        path.chmod(0o600)
    for side_file in (path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        if side_file.exists():
            side_file.chmod(0o600)
