"""Audit rows in the database: how they come to be there, and how they are read."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from cache_tiers.hints import Dropped
from cache_tiers.types import SessionKey
from sessions.database import Database
from sessions.types import AuditAction, AuditRow
from tests.state_database import Backend

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DROPPED = Dropped(SessionKey("t/s"), known=True, chunks=3, bytes=2**40, key_destroyed=True)


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


async def add(database: Database, session_id: str, at: datetime = NOW, tenant: str = "t") -> None:
    async with database.transaction() as repo:
        await repo.add_audit(AuditAction.KV_DROPPED, tenant, session_id, DROPPED, at)


async def rows(
    database: Database, limit: int = 100, before: AuditRow | None = None, tenant: str = "t"
) -> list[AuditRow]:
    place = None if before is None else (before.at, before.id)
    async with database.transaction() as repo:
        return await repo.page_of_audit(tenant, limit, place)


async def names(database: Database, tenant: str = "t") -> list[str]:
    return [row.session_id for row in await rows(database, tenant=tenant)]


async def test_a_row_is_read_as_it_was_stored(database: Database) -> None:
    await add(database, "s")
    assert await rows(database) == [
        AuditRow(
            id=1,
            at=NOW,
            tenant="t",
            session_id="s",
            action=AuditAction.KV_DROPPED,
            key_destroyed=True,
            chunks=3,
            bytes=2**40,
        )
    ]


async def test_a_unit_of_work_that_fails_leaves_no_row(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as repo:
            await repo.add_audit(AuditAction.KV_DROPPED, "t", "s", DROPPED, NOW)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await names(database) == []


async def test_rows_are_paged_newest_first_also_within_one_moment(database: Database) -> None:
    for name, seconds in (("b", 1), ("c", 1), ("a", 0), ("d", 1), ("e", 2)):
        await add(database, name, NOW + timedelta(seconds=seconds))
    seen: list[str] = []
    last: AuditRow | None = None
    for _ in range(5):
        (last,) = await rows(database, 1, last)
        seen.append(last.session_id)
    assert seen == ["e", "d", "c", "b", "a"]
    assert await rows(database, 1, last) == []


async def test_tenants_have_rows_of_their_own(database: Database) -> None:
    await add(database, "of-t")
    await add(database, "of-u", tenant="u")
    assert (await names(database), await names(database, "u")) == (["of-t"], ["of-u"])
    (of_u,) = await rows(database, tenant="u")
    assert [row.session_id for row in await rows(database, before=of_u)] == ["of-t"]


async def test_a_tenant_keeps_its_newest_rows_and_takes_nobody_elses_place(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.repository.MAX_AUDIT_ROWS", 3)
    monkeypatch.setattr("sessions.repository._TRIM_EVERY", 7)
    await add(database, "other", tenant="u")
    for number in range(5):
        await add(database, f"s{number}", NOW + timedelta(seconds=number))
    # The row numbered 7 is the next to be counted: a full table makes no other slow.
    assert len(await names(database)) == 5
    await add(database, "s5", NOW + timedelta(seconds=5))
    assert await names(database) == ["s5", "s4", "s3"]
    assert await names(database, "u") == ["other"]


async def test_a_number_is_never_given_twice(database: Database, backend: Backend) -> None:
    await add(database, "s0")
    await backend.ask("DELETE FROM audit")
    await add(database, "s1")
    assert [row.id for row in await rows(database)] == [2]
