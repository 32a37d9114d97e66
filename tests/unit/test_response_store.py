"""Stored responses and conversations on a session database, below HTTP."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sessions.database import Database
from sessions.responses import repository, service
from sessions.responses.conversation_repository import ConversationRepository
from sessions.responses.conversations import ConversationService
from sessions.responses.limit import StoredLimit
from sessions.responses.repository import ResponseRepository
from sessions.responses.service import ResponseService
from sessions.responses.types import (
    ContextTooLong,
    ConversationNotFound,
    Item,
    NewResponse,
    ResponseNotFound,
)
from sessions.sealing import Sealer
from sessions.types import StateUnavailable
from tests.state_database import Backend

TTL = timedelta(days=30)


class Store:
    """Both services on one database, and a clock."""

    def __init__(self, database: Database, limit: int = 1024**3, secret: bytes = b"s" * 32) -> None:
        self.database = database
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        kept, sealer = StoredLimit(limit), Sealer(secret)
        self.responses = ResponseService(database, sealer, lambda: self.now, ttl=TTL, limit=kept)
        self.talks = ConversationService(database, sealer, lambda: self.now, ttl=TTL, limit=kept)

    async def add(self, name: str, previous: str | None = None, size: int = 1) -> None:
        """Stores ``name``, whose answer is one item of its own name."""
        thread = None
        if previous is not None:
            thread = (await self.responses.context("t", previous)).thread
        given, said = item(f"in_{name}", size), item(f"out_{name}", size)
        new = NewResponse(name, "s", 1, {}, (given,), (said,), previous, thread)
        write = self.responses.storing("t", new)
        assert write is not None
        async with self.database.begin() as connection:
            await write(connection)

    async def context(self, name: str) -> list[str]:
        return [item.id for item in (await self.responses.context("t", name)).items]

    async def purge(self) -> int:
        async with self.database.begin() as connection:
            gone = await ResponseRepository(connection).purge(self.now, 100)
            return gone + await ConversationRepository(connection).purge(self.now, 100)

    async def rows(self) -> int:
        async with self.database.begin() as connection:
            result = await connection.exec_driver_sql("SELECT count(*) FROM responses")
            return int(result.scalar_one())


def item(name: str, size: int = 1) -> Item:
    return Item(name, {"role": "user", "content": "x" * size})


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def test_branches_have_their_own_context(store: Store) -> None:
    await store.add("a")
    await store.add("b", "a")
    await store.add("c", "a")
    await store.add("d", "c")
    assert await store.context("b") == ["in_a", "out_a", "in_b", "out_b"]
    assert await store.context("d") == ["in_a", "out_a", "in_c", "out_c", "in_d", "out_d"]


async def test_storing_twice_is_storing_once(store: Store) -> None:
    await store.add("a")
    await store.add("a")
    assert await store.rows() == 1


async def test_what_is_deleted_goes_when_nothing_stands_on_it(store: Store) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        await store.add(name, previous)
    await store.responses.delete("t", "a")
    await store.responses.delete("t", "b")
    assert await store.rows() == 3
    assert len(await store.context("c")) == 6
    await store.responses.delete("t", "c")
    assert await store.rows() == 0


async def test_a_thread_goes_when_all_of_it_has_expired(store: Store) -> None:
    await store.add("a")
    store.now += TTL - timedelta(days=1)
    await store.add("b", "a")
    store.now += timedelta(days=2)
    with pytest.raises(ResponseNotFound):
        await store.responses.get("t", "a")
    assert await store.purge() == 0
    assert await store.context("b") == ["in_a", "out_a", "in_b", "out_b"]
    store.now += TTL
    assert await store.purge() == 2
    assert await store.rows() == 0


async def test_a_chain_has_a_longest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (repository, service):
        monkeypatch.setattr(module, "MAX_CHAIN", 2)
    await store.add("a")
    await store.add("b", "a")
    await store.add("c", "b")
    with pytest.raises(ContextTooLong):
        await store.responses.context("t", "c")
    assert await store.context("b") == ["in_a", "out_a", "in_b", "out_b"]


async def test_a_context_has_a_largest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (repository, service):
        monkeypatch.setattr(module, "MAX_CONTEXT_BYTES", 1000)
    await store.add("a", size=300)
    await store.add("b", "a", size=300)
    with pytest.raises(ContextTooLong):
        await store.responses.context("t", "b")
    talk = await store.talks.create("t", [item("i", 2000)], {})
    with pytest.raises(ContextTooLong):
        await store.talks.context("t", talk.id)
    with pytest.raises(ContextTooLong):
        await store.talks.add("t", talk.id, [item("j")])


async def test_what_expires_first_makes_room(database: Database) -> None:
    store = Store(database, limit=17_000)
    await store.add("old", size=1000)
    store.now += timedelta(seconds=1)
    talk = await store.talks.create("t", [item("i", 2000)], {})
    store.now += timedelta(seconds=1)
    await store.add("root", size=1000)
    for number in range(5):
        store.now += timedelta(seconds=1)
        await store.add(f"r{number}", "root", size=1000)
    with pytest.raises(ResponseNotFound):
        await store.responses.get("t", "old")
    assert (await store.talks.get("t", talk.id)).id == talk.id
    store.now += timedelta(seconds=1)
    await store.add("last", size=1000)
    with pytest.raises(ConversationNotFound):
        await store.talks.get("t", talk.id)
    assert await store.context("last") == ["in_last", "out_last"]


@pytest.mark.parametrize("described", [False, True])
async def test_conversations_without_items_are_not_for_nothing(
    database: Database, described: bool
) -> None:
    store = Store(database, limit=64_000)
    metadata = {f"key {number}": "x" * 512 for number in range(16)}
    talks = []
    for _ in range(8):
        store.now += timedelta(seconds=1)
        talks.append(await store.talks.create("t", [], {} if described else metadata))
        if described:
            await store.talks.describe("t", talks[-1].id, metadata)
    with pytest.raises(ConversationNotFound):
        await store.talks.get("t", talks[0].id)
    assert (await store.talks.get("t", talks[-1].id)).metadata == metadata
    # Metadata that is gone does not count.
    await store.talks.describe("t", talks[-1].id, {})
    for _ in range(112):
        store.now += timedelta(seconds=1)
        talks.append(await store.talks.create("t", [], {}))
    with pytest.raises(ConversationNotFound):
        await store.talks.get("t", talks[6].id)
    assert (await store.talks.get("t", talks[7].id)).metadata == {}
    for _ in range(100):
        store.now += timedelta(seconds=1)
        talks.append(await store.talks.create("t", [], {}))
    with pytest.raises(ConversationNotFound):
        await store.talks.get("t", talks[7].id)


async def test_too_large_a_response_is_not_stored(database: Database) -> None:
    store = Store(database, limit=1000)
    new = NewResponse("a", "s", 1, {}, (item("i", 2000),), ())
    assert store.responses.storing("t", new) is None


async def test_appends_at_once_follow_one_another(store: Store) -> None:
    talk = await store.talks.create("t", [], {})
    pairs = [[item(f"{n}a"), item(f"{n}b")] for n in range(8)]
    await asyncio.gather(*(store.talks.add("t", talk.id, pair) for pair in pairs))
    found = await store.talks.items("t", talk.id, 100, descending=False)
    names = [one.id for one in found.items]
    assert sorted(names) == sorted(one.id for pair in pairs for one in pair)
    assert all(a[0] == b[0] for a, b in zip(names[::2], names[1::2], strict=True))


async def test_another_secret_opens_nothing(store: Store, database: Database) -> None:
    await store.add("a")
    thief = Store(database, secret=b"t" * 32)
    with pytest.raises(StateUnavailable):
        await thief.responses.get("t", "a")
