"""What one can do with conversations: lists of items that requests read and add to."""

import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database
from sessions.identity import new_session_id
from sessions.paging import Page, page_size
from sessions.ports import Clock
from sessions.responses.content import encode, seal_item, unseal_item
from sessions.responses.conversation_repository import (
    ConversationRepository,
    SealedItem,
    Stored,
)
from sessions.responses.limit import StoredLimit
from sessions.responses.service import check_context
from sessions.responses.types import (
    CONVERSATION_BYTES,
    MAX_ITEMS,
    Context,
    ContextTooLong,
    Conversation,
    ConversationNotFound,
    Item,
    ItemNotFound,
    is_name,
)
from sessions.sealing import Sealer
from sessions.types import InvalidCursor
from sessions.units import Write


class ConversationService:
    """Conversations of all tenants. Used on one event loop; any number of calls may run at once.

    Every method may raise StateUnavailable. A method that names a conversation raises
    ConversationNotFound when this tenant has none of that id, or nobody used it for its time to
    live: each use makes it live on.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        clock: Clock,
        *,
        ttl: timedelta,
        limit: StoredLimit,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._ttl = ttl
        self._limit = limit

    async def create(
        self, tenant: str, items: Sequence[Item], metadata: dict[str, str]
    ) -> Conversation:
        """A new conversation that begins with ``items``."""
        now = self._clock()
        new = Conversation(new_conversation_id(), new_session_id(), now, metadata)
        append = self.appending(tenant, new.id, items)
        async with self._database.begin() as connection:
            await ConversationRepository(connection).add(tenant, new, now + self._ttl)
            await append(connection)
            size = CONVERSATION_BYTES + len(encode(metadata))
            await self._limit.added(connection, tenant, size)
        return new

    async def get(self, tenant: str, conversation_id: str) -> Conversation:
        """The conversation, without its items."""
        async with self._database.begin() as connection:
            return (await self._find(connection, tenant, conversation_id)).conversation

    async def describe(
        self, tenant: str, conversation_id: str, metadata: dict[str, str]
    ) -> Conversation:
        """Give it other metadata."""
        async with self._database.begin() as connection:
            await self._find(connection, tenant, conversation_id)
            await ConversationRepository(connection).describe(tenant, conversation_id, metadata)
            described = (await self._find(connection, tenant, conversation_id)).conversation
            await self._limit.added(connection, tenant, len(encode(metadata)))
        return described

    async def delete(self, tenant: str, conversation_id: str) -> None:
        """Erase it and its items. Responses that were given in it stay."""
        now = self._clock()
        _check_name(conversation_id)
        async with self._database.begin() as connection:
            if not await ConversationRepository(connection).remove(tenant, conversation_id, now):
                raise ConversationNotFound("No such conversation.")

    async def context(self, tenant: str, conversation_id: str) -> Context:
        """What a request in the conversation has in front of it. Raises ContextTooLong."""
        async with self._database.begin() as connection:
            found = await self._find(connection, tenant, conversation_id)
            _check_room(found)
            rows = await ConversationRepository(connection).page(tenant, conversation_id, None)
        items = tuple(self._item(tenant, conversation_id, row) for row in rows)
        return Context(items, found.conversation.session_id, position=found.next)

    # --- items -----------------------------------------------------------------------------------

    def appending(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> Write:
        """What adds items at the end in somebody's unit of work, if there is the conversation."""
        sealed = []
        for item in items:
            content = encode(item.content)
            data = seal_item(self._sealer, tenant, conversation_id, item, content)
            sealed.append(SealedItem(item.id, len(content), data))

        async def write(connection: AsyncConnection) -> None:
            expires_at = self._clock() + self._ttl
            repository = ConversationRepository(connection)
            if await repository.append(tenant, conversation_id, sealed, expires_at):
                size = sum(item.size for item in sealed)
                await self._limit.added(connection, tenant, size)

        return write

    async def add(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> None:
        """Add items at the end. Raises ContextTooLong."""
        append = self.appending(tenant, conversation_id, items)
        async with self._database.begin() as connection:
            _check_room(await self._find(connection, tenant, conversation_id))
            await append(connection)

    async def items(
        self,
        tenant: str,
        conversation_id: str,
        limit: int = 20,
        after: str | None = None,
        *,
        descending: bool = True,
    ) -> Page[Item]:
        """A page of items; ``after`` is the id of the last item seen. Raises InvalidCursor."""
        size, place = page_size(limit), None
        async with self._database.begin() as connection:
            await self._find(connection, tenant, conversation_id)
            repository = ConversationRepository(connection)
            if after is not None:
                known = is_name(after)
                last = await repository.item(tenant, conversation_id, after) if known else None
                if last is None:
                    raise InvalidCursor("The conversation has no such item.")
                place = last[0]
            rows = await repository.page(
                tenant, conversation_id, size + 1, descending=descending, after=place
            )
        found = [self._item(tenant, conversation_id, row) for row in rows]
        return Page.of(found, size, lambda item: item.id)

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """One item. Raises ItemNotFound."""
        _check_item(item_id)
        async with self._database.begin() as connection:
            await self._find(connection, tenant, conversation_id)
            found = await ConversationRepository(connection).item(tenant, conversation_id, item_id)
        if found is None:
            raise ItemNotFound("No such item.")
        return self._item(tenant, conversation_id, (item_id, found[1]))

    async def remove_item(self, tenant: str, conversation_id: str, item_id: str) -> Conversation:
        """Erase one item; requests from now on do not see it. Raises ItemNotFound."""
        _check_item(item_id)
        async with self._database.begin() as connection:
            found = await self._find(connection, tenant, conversation_id)
            repository = ConversationRepository(connection)
            if not await repository.remove_item(tenant, conversation_id, item_id):
                raise ItemNotFound("No such item.")
            return found.conversation

    async def _find(self, connection: AsyncConnection, tenant: str, conversation_id: str) -> Stored:
        _check_name(conversation_id)
        found = await ConversationRepository(connection).find(
            tenant, conversation_id, self._clock()
        )
        if found is None:
            raise ConversationNotFound("No such conversation.")
        return found

    def _item(self, tenant: str, conversation_id: str, row: tuple[str, bytes]) -> Item:
        return unseal_item(self._sealer, tenant, conversation_id, *row)


def new_conversation_id() -> str:
    """128 random bits."""
    return "conv_" + secrets.token_hex(16)


def _check_name(conversation_id: str) -> None:
    if not is_name(conversation_id):
        raise ConversationNotFound("No such conversation.")


def _check_item(item_id: str) -> None:
    if not is_name(item_id):
        raise ItemNotFound("No such item.")


def _check_room(found: Stored) -> None:
    check_context(0, found.size)
    if found.count > MAX_ITEMS:
        raise ContextTooLong("The conversation has more items than one may continue.")
