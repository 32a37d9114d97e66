"""Tenants and API keys: what is stored, and what a server knows of it."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.types import Tier
from sessions.database import Database
from sessions.lifecycle import created
from sessions.models import api_keys
from sessions.tenancy import service
from sessions.tenancy.directory import TenantDirectory
from sessions.tenancy.keys import KeyTable, digest, new_key
from sessions.tenancy.quotas import MOST, NAMES, Quotas
from sessions.tenancy.repository import TenancyRepository
from sessions.tenancy.service import Tenancy
from sessions.tenancy.types import (
    ApiKey,
    BadTenantName,
    KeyState,
    TooMany,
    UnknownKey,
    UnknownTenant,
    check_tenant_name,
)
from sessions.types import StateUnavailable
from tests.state_database import Backend


class Clock:
    """A time that only the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


@pytest.fixture
def tenancy(database: Database, clock: Clock) -> Tenancy:
    return Tenancy(database, clock)


@pytest.fixture
async def directory(database: Database, clock: Clock) -> TenantDirectory:
    directory = TenantDirectory(database, Quotas(sessions=7, dram=100), clock)
    await directory.refresh()
    return directory


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "7", "x" * 64, "0123456789abcdef"])
def test_names_of_tenants(name: str) -> None:
    assert check_tenant_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "/", ".", "-x", "_x", "x" * 65, "ä", "a b", "a\n", "public", "local", "LOCAL"],
)
def test_names_that_no_tenant_has(name: str) -> None:
    with pytest.raises(BadTenantName):
        check_tenant_name(name)


def test_a_key_is_long_and_shows_itself_once() -> None:
    keys = {new_key().text for _ in range(100)}
    assert len(keys) == 100
    key = new_key()
    vk, key_id, secret = key.text.split("_", 2)
    assert (vk, key_id) == ("vk", key.id)
    assert len(secret) == 43  # 256 bits in base64
    assert key.digest == hashlib.sha256(key.text.encode()).digest() == digest(key.text)
    assert secret not in repr(key)
    assert digest("\udcff") != digest("")


async def test_a_stored_key_is_not_the_key(database: Database, tenancy: Tenancy) -> None:
    key = await tenancy.add_key("alice", "laptop", None)
    async with database.begin() as connection:
        row = (await connection.execute(api_keys.select())).one()
    assert row.digest == key.digest
    secret = key.text.split("_", 2)[2]  # which may have a "_" of its own
    assert secret not in repr(row)


async def test_the_directory_follows(
    tenancy: Tenancy, directory: TenantDirectory, clock: Clock
) -> None:
    assert directory.known
    assert not directory.has_keys
    key = await tenancy.add_key("alice", "", timedelta(days=1))
    assert directory.tenant(key.digest) is None
    await directory.refresh()
    assert directory.has_keys
    assert directory.tenant(key.digest) == "alice"
    assert directory.tenant(digest(key.text + "x")) is None
    clock.now += timedelta(days=1)
    assert directory.tenant(key.digest) is None


async def test_a_revoked_key_is_refused_and_keys_stay_in_force(
    tenancy: Tenancy, directory: TenantDirectory, clock: Clock
) -> None:
    key = await tenancy.add_key("alice", "", None)
    await directory.refresh()
    first = await tenancy.revoke_key(key.id)
    clock.now += timedelta(hours=1)
    assert await tenancy.revoke_key(key.id) == first
    await directory.refresh()
    assert directory.tenant(key.digest) is None
    assert directory.has_keys
    with pytest.raises(UnknownKey, match="is revoked"):
        await tenancy.rotate_key(key.id, timedelta(hours=1))
    with pytest.raises(UnknownKey, match="no key"):
        await tenancy.revoke_key("none")


async def test_a_rotated_key_works_until_the_overlap_is_over(
    tenancy: Tenancy, directory: TenantDirectory, clock: Clock
) -> None:
    old = await tenancy.add_key("alice", "laptop", timedelta(days=90))
    clock.now += timedelta(days=80)
    new = await tenancy.rotate_key(old.id, timedelta(hours=24))
    await directory.refresh()
    clock.now += timedelta(hours=24) - timedelta(microseconds=1)
    assert directory.tenant(old.digest) == directory.tenant(new.digest) == "alice"
    clock.now += timedelta(microseconds=1)
    assert directory.tenant(old.digest) is None
    assert directory.tenant(new.digest) == "alice"
    (_, first), (second, state) = await tenancy.keys("alice")
    assert (first, state) == (KeyState.EXPIRED, KeyState.VALID)
    assert second.label == "laptop"
    assert second.expires_at == second.created_at + timedelta(days=90)


async def test_an_overlap_never_lengthens_a_life(tenancy: Tenancy, clock: Clock) -> None:
    old = await tenancy.add_key("alice", "", timedelta(hours=1))
    await tenancy.rotate_key(old.id, timedelta(hours=24))
    (key, _), _ = await tenancy.keys()
    assert key.expires_at == clock.now + timedelta(hours=1)


async def test_a_lost_database_keeps_what_was_known(
    tenancy: Tenancy,
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = await tenancy.add_key("alice", "", timedelta(days=1))
    directory, other = (TenantDirectory(database, Quotas(), clock) for _ in "ab")
    await directory.refresh()

    def begin(self: Database) -> None:
        raise StateUnavailable("gone")

    with monkeypatch.context() as lost, caplog.at_level(logging.INFO):
        lost.setattr(Database, "begin", begin)
        for _ in range(3):
            await directory.refresh()
            await other.refresh()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert directory.stale
    assert directory.tenant(key.digest) == "alice"
    # A server that starts meanwhile knows no key, so that no revoked one comes back.
    assert not other.known
    assert other.tenant(key.digest) is None
    clock.now += timedelta(days=1)
    assert directory.tenant(key.digest) is None
    await other.refresh()
    assert other.known
    assert not other.stale


async def test_nothing_ends_the_watch(
    tenancy: Tenancy,
    directory: TenantDirectory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = await tenancy.add_key("alice", "", None)
    read, reads, followed = TenancyRepository.version, 0, asyncio.Event()

    async def fails_twice(self: TenancyRepository) -> int:
        nonlocal reads
        reads += 1
        if reads <= 2:
            raise RuntimeError("what nobody thought of, with a secret in it")
        if reads > 3:
            followed.set()
        return await read(self)

    monkeypatch.setattr(TenancyRepository, "version", fails_twice)
    monkeypatch.setattr("sessions.tenancy.directory.POLL_S", 0)
    watching = asyncio.create_task(directory.watch())
    async with asyncio.timeout(10):
        await followed.wait()
    assert not watching.done()
    watching.cancel()
    await asyncio.wait((watching,))
    assert directory.tenant(key.digest) == "alice"
    assert not directory.stale
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "(RuntimeError)" in warning.message
    assert "secret" not in caplog.text


async def test_changes_at_once_are_one_after_another(
    tenancy: Tenancy, backend: Backend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several processes: no tenant is made twice, no limit is passed, no change is missed."""
    monkeypatch.setattr(service, "MAX_KEYS", 5)
    other = await backend.open()
    try:
        rival = Tenancy(other, clock)
        adding = [(tenancy, rival)[i % 2].add_key("alice", "", None) for i in range(8)]
        results = await asyncio.gather(*adding, return_exceptions=True)
    finally:
        await other.close()
    assert sum(isinstance(result, TooMany) for result in results) == 3
    assert len(await tenancy.keys("alice")) == 5
    assert await backend.ask("SELECT version FROM tenancy") == 5


async def test_sessions_are_counted_no_further_than_asked(database: Database, clock: Clock) -> None:
    async with database.transaction() as repo:
        for number in range(5):
            await repo.add(created("alice", f"s{number}", "m", clock.now))
        await repo.add(created("bob", "s0", "m", clock.now))
        counting = TenancyRepository(repo.connection)
        assert [await counting.count_sessions("alice", most) for most in (3, 5, 9)] == [3, 5, 5]
        assert await counting.count_sessions("nobody", 9) == 0


async def test_dead_keys_are_forgotten_but_never_the_last(tenancy: Tenancy, clock: Clock) -> None:
    dead = [await tenancy.add_key("alice", "", timedelta(days=1)) for _ in range(3)]
    clock.now += timedelta(days=91)
    assert {key.id for key, _ in await tenancy.keys()} == {key.id for key in dead}
    clock.now += timedelta(days=1)
    key = await tenancy.add_key("bob", "", None)
    assert [key.id for key, _ in await tenancy.keys()] == [key.id]


async def test_there_is_room_for_so_many(tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_KEYS", 2)
    key = await tenancy.add_key("alice", "", None)
    await tenancy.add_key("alice", "", None)
    with pytest.raises(TooMany):
        await tenancy.add_key("alice", "", None)
    with pytest.raises(TooMany):
        await tenancy.rotate_key(key.id, timedelta())
    assert [state for _, state in await tenancy.keys()] == [KeyState.VALID, KeyState.VALID]
    monkeypatch.setattr(service, "MAX_TENANTS", 1)
    with pytest.raises(TooMany):
        await tenancy.set_quotas("bob", {})


async def test_quotas_of_ones_own_come_before_the_installations(
    tenancy: Tenancy, directory: TenantDirectory
) -> None:
    assert directory.quotas("alice") == Quotas(sessions=7, dram=100)
    await tenancy.set_quotas("alice", {"sessions": 0, "ssd": 5})
    assert directory.quotas("alice").sessions == 7
    await directory.refresh()
    assert directory.quotas("alice").limits() == {"ssd": 5, "dram": 100}
    assert directory.quotas("bob") == Quotas(sessions=7, dram=100)
    await tenancy.set_quotas("alice", {"sessions": None})
    await directory.refresh()
    assert directory.quotas("alice").limits() == {"ssd": 5, "dram": 100, "sessions": 7}
    assert [tenant.name for tenant in await tenancy.tenants()] == ["alice"]
    assert (await tenancy.tenant("alice")).quotas == Quotas(ssd=5)
    with pytest.raises(UnknownTenant):
        await tenancy.tenant("bob")


def test_a_limit_of_nothing_is_none() -> None:
    quotas = Quotas(dram=0, ssd=9)
    assert [quotas.bytes_in(tier) for tier in Tier] == [None, None, 9]


@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "unknown"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "7"]),
    )
)
def test_what_cannot_be_a_quota_is_absent(stored: dict[str, object]) -> None:
    kept = Quotas.read(stored).stored()
    assert all(stored[name] == value and 0 <= value <= MOST for name, value in kept.items())
    assert Quotas.read(kept).stored() == kept


def test_a_table_knows_no_more_than_its_keys() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    keys = [new_key() for _ in range(50)]
    table = KeyTable(ApiKey(k.id, f"t{i}", "", k.digest, now) for i, k in enumerate(keys))
    assert len(table) == 50
    assert [table.tenant(k.digest, now) for k in keys] == [f"t{i}" for i in range(50)]
    assert table.tenant(new_key().digest, now) is None
    assert table.tenant(b"", now) is None
