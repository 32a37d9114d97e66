"""A database full of sessions, as after a long time: what a benchmark's own are lost among.

Every session has one answered turn, two points of its history, and its head. Half of them belong
to the tenant that the benchmark asks as, the others to a hundred more.
"""

import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from sessions.history.points import slot_of
from sessions.types import PointKind, SessionState

OTHER_TENANTS = 100
_MESSAGES = 3
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_ROWS_AT_ONCE = 10_000

Row = tuple[Any, ...]
TABLES: Mapping[str, Sequence[str]] = {
    "sessions": (
        *("tenant", "id", "model", "state", "created_at", "last_active_at", "turns", "tokens"),
        *("fingerprint", "running", "head_turn", "instance", "metadata"),
    ),
    "turns": (
        *("tenant", "session_id", "number", "started_at", "instance", "ended_at"),
        *("prompt_tokens", "output_tokens", "finish_reason", "receipt"),
    ),
    "points": ("tenant", "hash", "slot", "session_id", "kind", "turn", "messages"),
    "heads": ("tenant", "session_id", "turn", "hashes", "tools"),
}
"""The columns that are filled; the others are null."""


def rows(table: str, sessions: int, tenant: str, model: str) -> Iterator[Row]:
    """The rows of one table; times are aware, JSON is text. The same for the same arguments."""
    dice = random.Random(7)
    for number in range(sessions):
        owner = tenant if number % 2 else f"tenant-{number % OTHER_TENANTS:03}"
        name = f"s_crowd_{number:08}"
        at = _BEGAN + timedelta(seconds=number)
        hashes = dice.randbytes(16 * _MESSAGES)
        if table == "sessions":
            state = SessionState.PARKED.value
            yield owner, name, model, state, at, at, 1, 900, "crowd", 0, 1, "crowd", "{}"
        elif table == "turns":
            yield owner, name, 1, at, "crowd", at, 800, 100, "stop", "{}"
        elif table == "heads":
            yield owner, name, 1, hashes, bytes(16)
        else:
            slot = slot_of(name)
            yield owner, hashes[-32:-16], slot, name, PointKind.ASKED.value, 1, _MESSAGES - 1
            yield owner, hashes[-16:], slot, name, PointKind.ANSWERED.value, 1, _MESSAGES


def fill_sqlite(path: Path, sessions: int, tenant: str, model: str) -> None:
    """Into a migrated database that nobody uses."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        for table, columns in TABLES.items():
            places = ", ".join("?" * len(columns))
            insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
            every = (_sqlite_row(row) for row in rows(table, sessions, tenant, model))
            database.executemany(insert, every)
            database.commit()
        database.execute("ANALYZE")
        database.commit()


async def fill_postgresql(dsn: str, sessions: int, tenant: str, model: str) -> None:
    """Into a migrated database; ``dsn`` is libpq's (``postgresql://…``)."""
    database = await asyncpg.connect(dsn)
    try:
        for table, columns in TABLES.items():
            source = rows(table, sessions, tenant, model)
            while batch := list(islice(source, _ROWS_AT_ONCE)):
                await database.copy_records_to_table(table, records=batch, columns=columns)
        await database.execute("VACUUM ANALYZE")
    finally:
        await database.close()


def _sqlite_row(row: Row) -> Row:
    # As SQLAlchemy writes a time there.
    return tuple(
        value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value
        for value in row
    )
