"""A PostgreSQL server that refuses, deadlocks, goes away and comes back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.main import CannotServe, Valet, open_valet
from app.settings import load_settings
from engine.fake import FakeEngine
from sessions import postgresql
from sessions.database import Database, open_database
from sessions.types import OutcomeUnknown, StateUnavailable
from sessions.units import Units
from tests.services.own_process import running
from tests.services.postgresql import OwnPostgres
from tests.state_database import Backend

CHAT = "/v1/chat/completions"


@pytest.fixture
def own() -> Iterator[OwnPostgres]:
    with running(OwnPostgres()) as server:
        yield server


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


@asynccontextmanager
async def served(url: str, home: Path) -> AsyncIterator[tuple[Valet, httpx.AsyncClient]]:
    settings = load_settings({"VALET_HOME": str(home), "VALET_DATABASE_URL": url}, home.parent)
    async with open_valet(settings, FakeEngine()) as valet:
        transport = httpx.ASGITransport(app=valet.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://valet") as client:
            yield valet, client


async def chat(client: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "a b c d"}],
        "session_id": session_id,
    }
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()["kv_receipt"]
    return receipt


async def test_a_server_that_goes_and_comes_back(own: OwnPostgres, tmp_path: Path) -> None:
    async with served(own.server.create_database(), tmp_path / "home") as (valet, client):
        assert (await chat(client, "s"))["turn"] == 1
        own.stop()
        for session_id in ("s", "never-begun"):
            receipt = await chat(client, session_id)
            assert (receipt["turn"], receipt["session_state"]) == (None, "unavailable")
        for path in ("/v1/sessions", "/v1/sessions/s", "/v1/sessions/s/turns", "/v1/audit"):
            answer = await client.get(path)
            assert answer.status_code == 503, path
            assert answer.json()["error"]["code"] == "state_unavailable"
        own.start()
        async with asyncio.timeout(20):
            while (await client.get("/v1/sessions")).status_code == 503:
                pass
        # Nothing is invented: the turns that never began have left no trace, and no number.
        assert (await client.get("/v1/sessions/never-begun")).status_code == 404
        assert (await chat(client, "s"))["turn"] == 2
        await valet.desk.settle(5)
        listed = (await valet.sessions.turns("local", "s")).items
        assert [turn.number for turn in listed] == [2, 1]


async def test_an_end_that_could_not_be_stored_is_stored_once(
    own: OwnPostgres, tmp_path: Path
) -> None:
    async with served(own.server.create_database(), tmp_path / "home") as (valet, client):
        begun = await valet.sessions.begin_turn("local", "s", "fake")
        own.crash()
        with pytest.raises(StateUnavailable):
            await valet.sessions.end_turn(begun, receipt={"turn": 1}, prompt_tokens=5)
        own.start()
        async with asyncio.timeout(20):
            while (await client.get("/v1/sessions/s")).status_code == 503:
                pass
        await valet.sessions.end_turn(begun)
        (turn,) = (await valet.sessions.turns("local", "s")).items
        assert (turn.number, turn.prompt_tokens) == (1, 5)


async def test_one_that_cannot_be_reached_is_said_at_once_and_left_alone_for_a_while(
    own: OwnPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sessions.database")
    database = await open_database(own.server.create_database())
    own.stop()
    async with asyncio.timeout(2):
        for _ in range(200):
            with pytest.raises(StateUnavailable):
                async with database.transaction() as repo:
                    await repo.find("t", "s")
    assert database.faults < 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await database.close()


async def test_a_unit_of_work_that_deadlocks_runs_again(
    database: Database, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.ask("CREATE TABLE pair (id int PRIMARY KEY, n int)")
    await backend.ask("INSERT INTO pair VALUES (1, 0), (2, 0)")
    both_inside = asyncio.Barrier(2)
    runs = 0

    async def unit(connection: AsyncConnection, order: tuple[int, int]) -> None:
        nonlocal runs
        runs += 1
        for place, row in enumerate(order):
            await connection.execute(text(f"UPDATE pair SET n = n + 1 WHERE id = {row}"))
            if place == 0 and runs <= 2:
                await both_inside.wait()

    await asyncio.gather(
        database.run(lambda connection: unit(connection, (1, 2))),
        database.run(lambda connection: unit(connection, (2, 1))),
    )
    assert runs == 3
    assert await backend.ask("SELECT sum(n) FROM pair") == 4
    assert (database.faults, database.healthy) == (0, True)


async def test_more_tasks_than_connections_wait_for_one(database: Database) -> None:
    async def unit(connection: AsyncConnection) -> object:
        return (await connection.execute(text("SELECT pg_sleep(0.01)"))).scalar_one()

    assert len(await asyncio.gather(*(database.run(unit) for _ in range(100)))) == 100


async def test_a_statement_takes_no_longer_than_it_may(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "STATEMENT_S", 0.2)
    database = await backend.open()
    with pytest.raises(StateUnavailable):
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))
    await database.close()


async def test_connections_that_were_cut_are_replaced(database: Database, backend: Backend) -> None:
    async def unit(connection: AsyncConnection) -> object:
        return (await connection.execute(text("SELECT 1"))).scalar_one()

    await asyncio.gather(*(database.run(unit) for _ in range(8)))
    await backend.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'valet'"
    )
    async with asyncio.timeout(5):
        while True:
            try:
                assert await database.run(unit) == 1
            except StateUnavailable:
                # The end of a connection and a statement on it may pass each other once.
                assert database.faults == 1
            else:
                break


async def test_a_process_with_another_secret_is_told(own: OwnPostgres, tmp_path: Path) -> None:
    url = own.server.create_database()
    async with served(url, tmp_path / "one"):
        pass
    with pytest.raises(CannotServe, match="VALET_SECRET"):
        async with served(url, tmp_path / "two"):
            pass
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "secret").write_bytes((tmp_path / "one" / "secret").read_bytes())
    (tmp_path / "three" / "secret").chmod(0o600)
    async with served(url, tmp_path / "three"):
        pass


@pytest.mark.parametrize("committed", [True, False])
async def test_a_turn_whose_begin_nobody_heard_of_does_not_run_on(
    own: OwnPostgres, tmp_path: Path, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own.server.create_database()
    async with served(url, tmp_path / "home") as (valet, _):
        commit = PGDialect_asyncpg.do_commit

        def lost(dialect: PGDialect_asyncpg, connection: Any) -> None:
            if committed:
                commit(dialect, connection)
            raise ConnectionResetError

        with monkeypatch.context() as patch:
            patch.setattr(PGDialect_asyncpg, "do_commit", lost)
            with pytest.raises(OutcomeUnknown):
                await valet.sessions.begin_turn("local", "s", "fake")
        second = await valet.sessions.begin_turn("local", "s", "fake")
        assert second.number == (2 if committed else 1)
        await valet.sessions.end_turn(second, receipt={"turn": second.number})
        session = await valet.sessions.get("local", "s")
        assert (session.turns, session.running) == (second.number, 0)
        finishes = [turn.receipt for turn in (await valet.sessions.turns("local", "s")).items]
        assert finishes == [{"turn": second.number}] + [{}] * committed


@pytest.mark.parametrize("number", [2**31, 2**63])
async def test_a_postponed_write_of_what_no_column_holds_is_dropped(
    database: Database, number: int
) -> None:
    """The server refuses the one, the driver the other."""
    tries = 0

    async def write(connection: AsyncConnection) -> None:
        nonlocal tries
        tries += 1
        await connection.execute(text("SELECT CAST(:n AS bigint)::int"), {"n": number})

    units = Units(database)
    units.postpone(write)
    for _ in range(2):
        async with units.begin():
            pass
    assert tries == 2  # with the others, and alone
