"""The session database as a file: private, and what may be wrong with it."""

import asyncio
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database, open_database
from sessions.lifecycle import created
from sessions.repository import SessionRepository
from sessions.types import StateUnavailable
from tests.state_database import Backend

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_file_and_its_folder_are_private(tmp_path: Path) -> None:
    path = tmp_path / "valet" / "state.db"
    database = await open_database(url(path))
    async with database.transaction() as repo:
        await repo.add(created("t", "s", "m", NOW))
    files = list(path.parent.iterdir())
    assert {file.name for file in files} == {"state.db", "state.db-wal", "state.db-shm"}
    assert {mode(file) for file in files} == {0o600}
    assert mode(path.parent) == 0o700
    await database.close()


async def test_a_file_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch(mode=0o644)
    await (await open_database(url(path))).close()
    assert mode(path) == 0o600


async def test_a_full_disk_is_unavailable_and_names_nobody(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.transaction() as repo:
        await repo.connection.exec_driver_sql("PRAGMA max_page_count = 1")

    async def fill() -> None:
        async with database.transaction() as repo:
            for number in range(500):
                await repo.add(created("secret-tenant", f"secret-{number}", "m" * 200, NOW))

    with pytest.raises(StateUnavailable) as failed:
        await fill()
    assert "secret" not in str(failed.value) + str(failed.value.__cause__) + caplog.text
    assert "full" in caplog.text
    async with database.transaction() as repo:
        assert await repo.find("secret-tenant", "secret-0") is None


async def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, however long " * 100)
    with pytest.raises(StateUnavailable, match="not a database"):
        await open_database(url(path))


async def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailable, match="cannot be opened"):
        await open_database(url(tmp_path / "file" / "state.db"))


async def test_a_page_far_down_is_found_in_the_index(database: Database) -> None:
    queries: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        queries.append((statement, parameters))

    event.listen(database._engine.sync_engine, "before_cursor_execute", note)
    async with database.transaction() as repo:
        await repo.page_of_audit("t", 10, (NOW, 5))
        ((statement, parameters),) = [query for query in queries if "SELECT" in query[0]]
        plan = await repo.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [row.detail for row in plan]
    assert steps == ["SEARCH audit USING INDEX ix_audit_tenant_at_id (tenant=? AND at<?)"]


async def test_a_unit_on_sqlite_waits_for_nothing_but_its_connection(database: Database) -> None:
    async def waits(_: AsyncConnection) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited for something"):
        await database.run(waits)
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None


async def test_a_transaction_that_was_left_open_is_undone_by_the_next_unit(
    database: Database,
) -> None:
    """As a commit that fails leaves it."""

    for _ in range(2):
        async with database._engine.connect() as connection:
            await _left_open(connection)
        async with database.transaction() as repo:
            assert await repo.find("t", "left") is None
        async with database._engine.connect() as connection:
            await _left_open(connection)
        assert await database.run(_found) is None


async def _left_open(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection

    def leave() -> None:
        if not driver._conn.in_transaction:
            driver._conn.execute("BEGIN IMMEDIATE")

    await driver._execute(leave)


async def _found(connection: AsyncConnection) -> object:
    return await SessionRepository(connection).find("t", "left")


async def test_one_process_serves_on_a_file(tmp_path: Path) -> None:
    where = f"sqlite+aiosqlite:///{tmp_path}/valet.db"
    first = await open_database(where, serving=True)
    try:
        with pytest.raises(StateUnavailable, match="another Valet"):
            await open_database(where, serving=True)
        await (await open_database(where)).close()
    finally:
        await first.close()
    await (await open_database(where, serving=True)).close()
