"""Two API processes on one PostgreSQL and one Redis, under clients that do everything at once and a
hand that kills: no lost update, no turn twice, nothing left over.

``VALET_TEST_WORKLOAD_S`` makes it longer, ``VALET_TEST_SEED`` another one.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.fake_server import DISK
from tests.linearizable import is_linearizable
from tests.services.postgresql import PostgresServer
from tests.two_processes import Seen, Workload
from tests.valet_process import ValetProcess

SECONDS = float(os.environ.get("VALET_TEST_WORKLOAD_S", "12"))
SEED = int(os.environ.get("VALET_TEST_SEED", "4"))
SETTLE_S = 60

CHILDREN = (
    "turns", "points", "heads", "transcripts", "checkpoints", "pins", "placements",
)  # fmt: skip


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def processes(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[list[ValetProcess]]:
    shared = {
        "VALET_DATABASE_URL": database_url,
        "VALET_REDIS_URL": redis_url,
        "VALET_SECRET": f"file:{tmp_path}/secret",
        "VALET_SSD": "0",
    }
    both = [
        ValetProcess(tmp_path / name, shared, program=("tests.fake_server",))
        for name in ("one", "two")
    ]
    yield both
    for process in both:
        process.kill()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection"]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


async def test_two_processes_and_a_killer(processes: list[ValetProcess], database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
    seen = await Workload(processes, SEED).run(SECONDS)
    print(f"seed {SEED}, {SECONDS:g} s: {dict(seen.counts)}, {len(seen.histories)} sessions")
    assert seen.faults == []
    assert len(seen.answers) > 20

    async with connected(database_url) as database:
        await at_rest(database)
        for process in processes:
            assert process.stop() == 0
        await check_rows(database, seen)
        existing = {
            f"{row['tenant']}/{row['id']}"
            for row in await database.fetch("SELECT tenant, id FROM sessions")
        }
    for process in processes:
        held = set(json.loads((process.home / DISK).read_text()))
        assert held <= existing, "KV of sessions that are gone"
    for name, history in seen.histories.items():
        # A fork is there from the beginning, with no turn of its own.
        begun = 0 if name in seen.forks else None
        assert is_linearizable(history, begun), (name, history)


async def at_rest(database: "asyncpg.Connection") -> None:
    """Wait until no turn runs and no order waits."""
    until = time.monotonic() + SETTLE_S
    question = (
        "SELECT (SELECT count(*) FROM turns WHERE ended_at IS NULL)"
        " + (SELECT count(*) FROM orders) + (SELECT count(*) FROM sessions WHERE running > 0)"
    )
    while left := await database.fetchval(question):
        assert time.monotonic() < until, f"{left} turns that run or orders that wait"
        await asyncio.sleep(0.2)


async def check_rows(database: "asyncpg.Connection", seen: Seen) -> None:
    stored: dict[str, dict[int, Any]] = {}
    for row in await database.fetch("SELECT session_id, number, receipt FROM turns"):
        turns = stored.setdefault(row["session_id"], {})
        assert row["number"] not in turns
        turns[row["number"]] = json.loads(row["receipt"])
    sessions = await database.fetch("SELECT id, state, turns, running FROM sessions")
    for session in sessions:
        numbers = sorted(stored.get(session["id"], {}))
        assert numbers == list(range(1, session["turns"] + 1)), session["id"]
        assert (session["state"] == "active") == (session["running"] > 0)
    check_answers(stored, seen)
    for table in CHILDREN:
        orphans = await database.fetchval(
            f"SELECT count(*) FROM {table} c LEFT JOIN sessions s"
            " ON (s.tenant, s.id) = (c.tenant, c.session_id) WHERE s.id IS NULL"
        )
        assert orphans == 0, table
    told = {
        (row["session_id"], row["kind"]): row["count"]
        for row in await database.fetch(
            "SELECT session_id, kind, count(*) FROM events GROUP BY session_id, kind"
        )
    }
    audited = {
        row["session_id"]: row["count"]
        for row in await database.fetch(
            "SELECT session_id, count(*) FROM audit WHERE action = 'session_deleted'"
            " GROUP BY session_id"
        )
    }
    there = {session["id"] for session in sessions}
    heard = Counter(
        name
        for name, history in seen.histories.items()
        for operation in history
        if operation.kind == "delete" and operation.result
    )
    for name in there | seen.histories.keys():
        created, deleted = told.get((name, "created"), 0), told.get((name, "deleted"), 0)
        assert created == deleted + (name in there), name
        assert deleted == audited.get(name, 0) >= heard[name], name


def check_answers(stored: dict[str, dict[int, Any]], seen: Seen) -> None:
    """Every answer that a client has is stored, under its number, with its receipt; unless its
    session was deleted since."""
    deleted = {
        name
        for name, history in seen.histories.items()
        if any(operation.kind == "delete" for operation in history)
    }
    for receipt in seen.answers:
        name, number = receipt["session_id"], receipt["turn"]
        if name not in deleted:
            assert stored[name][number] == receipt, (name, number)
