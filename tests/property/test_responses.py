"""Stored responses and conversations against plain lists of what was said."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.responses.items import page
from sessions.database import Database, open_database
from sessions.responses.conversation_repository import ConversationRepository
from sessions.responses.conversations import ConversationService
from sessions.responses.limit import StoredLimit
from sessions.responses.repository import ResponseRepository
from sessions.responses.service import ResponseService
from sessions.responses.types import (
    ConversationNotFound,
    Item,
    ItemNotFound,
    NewResponse,
    ResponseNotFound,
)
from sessions.sealing import Sealer

TTL = timedelta(days=30)
TENANTS = ("ann", "bob")
picks = st.integers(0, 1000)


@dataclass
class Said:
    """A response as the model remembers it."""

    tenant: str
    own: list[str]
    answer: str
    context: list[str]
    born: datetime
    deleted: bool = False


@dataclass
class Talk:
    """A conversation as the model remembers it."""

    tenant: str
    used: datetime
    items: list[str] = field(default_factory=list)


class Responses(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.said: dict[str, Said] = {}
        self.talks: dict[str, Talk] = {}
        self.count = 0

    def teardown(self) -> None:
        self.do(self.database.close())
        self.loop.close()
        self.folder.cleanup()

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def item(self) -> Item:
        self.count += 1
        return Item(f"item_{self.count}", {"role": "user", "content": f"text {self.count}"})

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        path = Path(self.folder.name) / "state.db"
        self.database: Database = self.do(open_database(f"sqlite:///{path}"))
        parts: Any = (self.database, Sealer(b"s" * 32), lambda: self.now)
        limit = StoredLimit(1024**3)
        self.responses = ResponseService(*parts, ttl=TTL, limit=limit)
        self.conversations = ConversationService(*parts, ttl=TTL, limit=limit)

    def pick(self, number: int) -> str | None:
        return list(self.said)[number % len(self.said)] if self.said else None

    def there(self, name: str) -> bool:
        said = self.said[name]
        return not said.deleted and said.born + TTL > self.now

    @rule()
    def restart(self) -> None:
        self.do(self.database.close())
        self.open()

    @rule(tenant=st.sampled_from(TENANTS), number=picks, size=st.integers(0, 3), on=st.booleans())
    def answer(self, tenant: str, number: int, size: int, on: bool) -> None:
        previous = self.pick(number) if on else None
        context, thread = None, None
        if previous is not None:
            if self.said[previous].tenant != tenant or not self.there(previous):
                return
            context = self.do(self.responses.context(tenant, previous))
            thread = context.thread
        own, out = tuple(self.item() for _ in range(size)), self.item()
        name = f"resp_{len(self.said)}"
        new = NewResponse(name, "s", 1, {"n": name}, own, (out,), previous, thread)
        self.store(tenant, new)
        before = [] if context is None else [item.id for item in context.items]
        ids = [item.id for item in own]
        self.said[name] = Said(tenant, ids, out.id, before, self.now)

    def store(self, tenant: str, new: NewResponse) -> None:
        write = self.responses.storing(tenant, new)
        assert write is not None

        async def work() -> None:
            async with self.database.begin() as connection:
                await write(connection)

        self.do(work())

    @rule(number=picks, tenant=st.sampled_from(TENANTS))
    def delete(self, number: int, tenant: str) -> None:
        name = self.pick(number)
        if name is None:
            return
        mine = self.said[name].tenant == tenant and self.there(name)
        try:
            self.do(self.responses.delete(tenant, name))
        except ResponseNotFound:
            assert not mine
        else:
            assert mine
            self.said[name].deleted = True

    @rule(days=st.sampled_from([1, 15, 31]))
    def wait(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule()
    def purge(self) -> None:
        async def work() -> None:
            async with self.database.begin() as connection:
                await ResponseRepository(connection).purge(self.now, 100)
                await ConversationRepository(connection).purge(self.now, 100)

        self.do(work())

    @rule(
        number=picks, tenant=st.sampled_from(TENANTS), limit=st.integers(1, 4), down=st.booleans()
    )
    def look(self, number: int, tenant: str, limit: int, down: bool) -> None:
        name = self.pick(number)
        if name is None:
            return
        said = self.said[name]
        if said.tenant != tenant or not self.there(name):
            for work in (self.responses.get, self.responses.context, self.responses.input_items):
                try:
                    self.do(work(tenant, name))
                except ResponseNotFound:
                    continue
                raise AssertionError("it was not to be had")
            return
        assert self.do(self.responses.get(tenant, name))["n"] == name
        context = self.do(self.responses.context(tenant, name))
        assert [i.id for i in context.items] == [*said.context, *said.own, said.answer]
        items = self.do(self.responses.input_items(tenant, name))
        expected = [*said.context, *said.own]
        seen: list[str] = []
        more = True
        while more:
            found = page(items, limit, seen[-1] if seen else None, descending=down)
            assert found is not None
            seen += [item.id for item in found[0]]
            more = found[1]
        assert seen == (expected[::-1] if down else expected)

    # --- conversations ---------------------------------------------------------------------------

    @rule(tenant=st.sampled_from(TENANTS), size=st.integers(0, 3))
    def talk(self, tenant: str, size: int) -> None:
        items = [self.item() for _ in range(size)]
        name = self.do(self.conversations.create(tenant, items, {})).id
        self.talks[name] = Talk(tenant, self.now, [item.id for item in items])

    @rule(number=picks, size=st.integers(1, 3))
    def say(self, number: int, size: int) -> None:
        if not self.talks:
            return
        name = list(self.talks)[number % len(self.talks)]
        talk = self.talks[name]
        items = [self.item() for _ in range(size)]
        try:
            self.do(self.conversations.add(talk.tenant, name, items))
        except ConversationNotFound:
            assert talk.used + TTL <= self.now
            del self.talks[name]
        else:
            assert talk.used + TTL > self.now
            talk.used = self.now
            talk.items += [item.id for item in items]

    @rule(number=picks, which=picks)
    def unsay(self, number: int, which: int) -> None:
        if not self.talks:
            return
        name = list(self.talks)[number % len(self.talks)]
        talk = self.talks[name]
        item = talk.items[which % len(talk.items)] if talk.items else "item_none"
        try:
            self.do(self.conversations.remove_item(talk.tenant, name, item))
        except ConversationNotFound:
            assert talk.used + TTL <= self.now
        except ItemNotFound:
            assert not talk.items
        else:
            talk.items.remove(item)

    @rule(number=picks, limit=st.integers(1, 4), down=st.booleans())
    def listen(self, number: int, limit: int, down: bool) -> None:
        if not self.talks:
            return
        name = list(self.talks)[number % len(self.talks)]
        talk = self.talks[name]
        if talk.used + TTL <= self.now:
            return
        other = TENANTS[talk.tenant == TENANTS[0]]
        try:
            self.do(self.conversations.get(other, name))
        except ConversationNotFound:
            pass
        else:
            raise AssertionError("another tenant's")
        seen: list[str] = []
        after: str | None = None
        while True:
            found = self.do(
                self.conversations.items(talk.tenant, name, limit, after, descending=down)
            )
            seen += [item.id for item in found.items]
            after = found.next
            if after is None:
                break
        assert seen == (talk.items[::-1] if down else talk.items)
        context = self.do(self.conversations.context(talk.tenant, name))
        assert [item.id for item in context.items] == talk.items

    @invariant()
    def nothing_stands_on_nothing(self) -> None:
        if not hasattr(self, "database"):
            return

        async def rows() -> list[tuple[str, str | None, bool]]:
            async with self.database.begin() as connection:
                result = await connection.exec_driver_sql(
                    "SELECT id, previous_id, deleted FROM responses"
                )
                return [tuple(row) for row in result]

        found = self.do(rows())
        stood_on = {previous for _, previous, _ in found}
        names = {name for name, _, _ in found}
        assert stood_on - {None} <= names
        # What was deleted is erased as soon as nothing stands on it.
        assert all(name in stood_on for name, _, deleted in found if deleted)


TestResponses = Responses.TestCase
TestResponses.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
