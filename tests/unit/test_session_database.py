"""The session database, whichever it is: migrated, one unit of work at a time, one kind of
failure."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from sessions import models
from sessions.database import Database, open_database
from sessions.lifecycle import created
from sessions.models import sessions
from sessions.prepared import values
from sessions.repository import SessionRepository
from sessions.types import Session, SessionBusy, SessionState, StateUnavailable
from tests.state_database import Backend

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open(patient=False)
    yield opened
    await opened.close()


async def test_migrations_build_the_tables_of_the_models(backend: Backend) -> None:
    await (await backend.open()).close()

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, models.metadata))

    engine = create_async_engine(backend.url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_database_of_the_first_schema_keeps_its_sessions(backend: Backend) -> None:
    engine = create_async_engine(backend.url)
    async with engine.begin() as connection:
        await connection.run_sync(first_schema)
    await engine.dispose()
    await backend.ask(
        "INSERT INTO sessions VALUES ('t', 's', 'm', 'parked', '2029-01-01 00:00:00.000000+00:00',"
        " '2029-01-01 00:00:01.000000+00:00', 1, 100, 'fp', 0)"
    )
    await backend.ask(
        "INSERT INTO turns VALUES ('t', 's', 1, '2029-01-01 00:00:00.000000+00:00',"
        " '2029-01-01 00:00:01.000000+00:00', 90, 10, 'stop', '{}')"
    )
    database = await backend.open()
    async with database.transaction() as repo:
        session = await repo.find("t", "s")
        turns = await repo.page_of_turns("t", "s", 10, None)
        assert session is not None
        assert (session.state, session.tokens, session.head_turn) == (SessionState.PARKED, 100, 1)
        assert (session.metadata, session.instance) == ({}, "")
        assert [turn.prompt_tokens for turn in turns] == [90]
        assert await repo.page_of_audit("t", 10, None) == []
    await database.close()


def first_schema(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "sessions:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def test_opening_twice_keeps_what_is_there(backend: Backend) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    database = await backend.open()
    async with database.transaction() as repo:
        assert await repo.add(created("t", "s", "m", elsewhere))
    await database.close()
    database = await backend.open()
    async with database.transaction() as repo:
        session = await repo.find("t", "s")
    assert session is not None
    assert session.created_at == NOW
    assert session.created_at.tzinfo is UTC
    await database.close()


async def test_two_that_open_it_at_once_migrate_it_once(backend: Backend) -> None:
    databases = await asyncio.gather(*(backend.open() for _ in range(3)))
    for database in databases:
        async with database.transaction() as repo:
            assert await repo.find("t", "s") is None
        await database.close()


async def test_a_locked_database_is_unavailable_then_works_again(
    backend: Backend, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sessions.database")
    async with backend.locked():
        for _ in range(2):
            with pytest.raises(StateUnavailable):
                async with database.transaction() as repo:
                    await repo.find("t", "s")
        assert not database.healthy
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None
    assert (database.faults, database.healthy) == (2, True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_database_of_a_newer_version_is_left_alone(backend: Backend) -> None:
    await (await backend.open()).close()
    await backend.ask("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StateUnavailable, match="newer"):
        await backend.open()


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


@pytest.mark.parametrize("bad", ["", "no url", "postgresql://u:hush@host/db"])
async def test_an_unusable_url_is_refused_without_its_password(bad: str) -> None:
    with pytest.raises(StateUnavailable) as refused:
        await open_database(bad)
    assert "hush" not in str(refused.value)


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


async def test_a_unit_that_is_given_up_in_its_middle_leaves_nothing_behind(
    database: Database,
) -> None:
    """Whoever waited for it is gone; the unit itself goes on to its end or is undone whole."""

    async def slow(connection: AsyncConnection) -> None:
        repo = SessionRepository(connection)
        await repo.add(created("t", "given-up", "m", NOW))
        counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000)"
        await connection.exec_driver_sql(f"{counting} SELECT count(*) FROM n")

    async def broken(connection: AsyncConnection) -> None:
        await SessionRepository(connection).add(created("t", "broken", "m", NOW))
        raise SessionBusy("no")

    given_up = asyncio.create_task(database.run(slow))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    with pytest.raises(SessionBusy):
        await database.run(broken)
    async with database.transaction() as repo:
        assert await repo.find("t", "broken") is None
        await repo.add(created("t", "after", "m", NOW))
    async with asyncio.timeout(30):
        for _ in range(3):
            assert await database.run(_count) in (1, 2)


async def _count(connection: AsyncConnection) -> int:
    found = await connection.exec_driver_sql("SELECT count(*) FROM sessions")
    return int(found.scalar_one())


async def test_what_is_refused_is_no_fault_of_the_database(database: Database) -> None:
    session = created("t", "s", "m", NOW)

    async def twice(connection: AsyncConnection) -> None:
        for _ in range(2):
            await connection.execute(insert(sessions), values(session))

    with pytest.raises(StateUnavailable):
        await database.run(twice)
    assert (database.healthy, database.faults) == (True, 0)
    async with database.transaction() as repo:
        assert await repo.find("t", "s") is None


async def test_what_only_reads_sees_what_was_committed(database: Database) -> None:
    async with database.transaction() as repo:
        assert await repo.add(created("t", "s", "m", NOW))

    async def found(connection: AsyncConnection) -> Session | None:
        return await SessionRepository(connection).find("t", "s")

    assert await database.read(found) is not None
    assert database.healthy
