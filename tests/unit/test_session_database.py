"""The database file: private, migrated, and one kind of failure."""

import asyncio
import logging
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from sessions import models, sqlite
from sessions.database import Database, open_database
from sessions.lifecycle import created
from sessions.types import StateUnavailable

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(url(tmp_path / "state.db"))
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


async def test_migrations_build_the_tables_of_the_models(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await open_database(url(path))).close()
    engine = create_engine(url(path))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.metadata) == []
        ddl = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'sessions'")
        assert "(state = 'active') = (running > 0)" in ddl.scalar_one()
    engine.dispose()


async def test_opening_twice_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    database = await open_database(url(path))
    async with database.transaction() as repo:
        assert await repo.add(created("t", "s", "m", elsewhere))
    await database.close()
    database = await open_database(url(path))
    async with database.transaction() as repo:
        session = await repo.find("t", "s")
    assert session is not None
    assert session.created_at == NOW
    assert session.created_at.tzinfo is UTC
    await database.close()


async def test_a_taken_name_leaves_the_transaction_usable(database: Database) -> None:
    async with database.transaction() as repo:
        assert await repo.add(created("t", "s", "first", NOW))
        assert not await repo.add(created("t", "s", "second", NOW))
        assert await repo.add(created("other", "s", "third", NOW))
    async with database.transaction() as repo:
        found = {s.tenant: s.model for s in await repo.find_all([("t", "s"), ("other", "s")])}
    assert found == {"t": "first", "other": "third"}


async def test_a_block_that_raises_changes_nothing(database: Database) -> None:
    async def block() -> None:
        async with database.transaction() as repo:
            await repo.add(created("t", "s", "m", NOW))
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None


async def test_a_time_without_a_timezone_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="without a timezone"):
        async with database.transaction() as repo:
            await repo.add(created("t", "s", "m", NOW.replace(tzinfo=None)))


async def test_a_locked_database_is_unavailable_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 1", *sqlite._PRAGMAS[1:]))
    caplog.set_level(logging.INFO, "sessions.database")
    path = tmp_path / "state.db"
    database = await open_database(url(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(StateUnavailable):
            async with database.transaction() as repo:
                await repo.find("t", "s")
    other.rollback()
    other.close()
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None
    assert database.faults == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await database.close()


async def test_a_full_disk_is_unavailable_and_names_nobody(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.transaction() as repo:
        await repo._connection.exec_driver_sql("PRAGMA max_page_count = 1")

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


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await open_database(url(path))).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StateUnavailable, match="newer"):
        await open_database(url(path))


@pytest.mark.parametrize("bad", ["", "no url", "postgresql://u:hush@host/db"])
async def test_an_unusable_url_is_refused_without_its_password(bad: str) -> None:
    with pytest.raises(StateUnavailable) as refused:
        await open_database(bad)
    assert "hush" not in str(refused.value)


async def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailable, match="cannot be opened"):
        await open_database(url(tmp_path / "file" / "state.db"))


async def test_a_cancelled_unit_of_work_frees_the_database(database: Database) -> None:
    inside = asyncio.Event()

    async def stuck() -> None:
        async with database.transaction() as repo:
            await repo.add(created("t", "s", "m", NOW))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None
