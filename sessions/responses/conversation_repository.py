"""All SQL of conversations and their items. Values in, values out; lives as long as one
transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.models import conversation_items as items
from sessions.models import conversations
from sessions.responses.types import Conversation


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation and what it holds."""

    conversation: Conversation
    next: int
    """Position of the next item."""
    count: int
    """Of items."""
    size: int
    """Their bytes of JSON."""


@dataclass(frozen=True, slots=True)
class SealedItem:
    """One item as it is stored."""

    id: str
    size: int
    """Bytes of JSON."""
    sealed: bytes


class ConversationRepository:
    """Rows of conversations inside one transaction; see ``Database.begin`` for errors."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, tenant: str, new: Conversation, expires_at: datetime) -> None:
        """Store a new conversation, without items."""
        await self._connection.execute(
            insert(conversations).values(
                tenant=tenant,
                id=new.id,
                session_id=new.session_id,
                created_at=new.created_at,
                expires_at=expires_at,
                metadata=new.metadata,
                next=0,
                count=0,
                size=0,
            )
        )

    async def find(self, tenant: str, conversation_id: str, now: datetime) -> Stored | None:
        """The conversation, or None when it is unknown or has expired."""
        query = select(conversations).where(
            _is(tenant, conversation_id), conversations.c.expires_at > now
        )
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            return None
        found = Conversation(row.id, row.session_id, row.created_at, row.metadata)
        return Stored(found, row.next, row._mapping["count"], row.size)

    async def describe(self, tenant: str, conversation_id: str, metadata: dict[str, str]) -> None:
        """Give it other metadata."""
        await self._connection.execute(
            update(conversations).where(_is(tenant, conversation_id)).values(metadata=metadata)
        )

    async def remove(self, tenant: str, conversation_id: str, now: datetime) -> bool:
        """Erase it and its items; False when there is none."""
        erased = await self._connection.execute(
            delete(conversations).where(
                _is(tenant, conversation_id), conversations.c.expires_at > now
            )
        )
        return erased.rowcount == 1

    async def purge(self, now: datetime, batch: int) -> int:
        """Erase at most ``batch`` conversations that have expired; returns how many."""
        over = (
            select(conversations.c.tenant, conversations.c.id)
            .where(conversations.c.expires_at <= now)
            .limit(batch)
        )
        names = (await self._connection.execute(over)).all()
        for tenant, conversation_id in names:
            await self._connection.execute(
                delete(conversations).where(_is(tenant, conversation_id))
            )
        return len(names)

    # --- items -----------------------------------------------------------------------------------

    async def append(
        self, tenant: str, conversation_id: str, new: Sequence[SealedItem], expires_at: datetime
    ) -> bool:
        """Add items at the end, and let the conversation live until ``expires_at``; False when
        there is none. Appends at once follow one another, in some order, each whole."""
        moved = await self._connection.execute(
            update(conversations)
            .where(_is(tenant, conversation_id))
            .values(
                next=conversations.c.next + len(new),
                count=conversations.c.count + len(new),
                size=conversations.c.size + sum(item.size for item in new),
                expires_at=expires_at,
            )
            .returning(conversations.c.next)
        )
        end = moved.scalar_one_or_none()
        if end is None:
            return False
        rows = [
            {
                "tenant": tenant,
                "conversation_id": conversation_id,
                "position": position,
                "id": item.id,
                "size": item.size,
                "sealed": item.sealed,
            }
            for position, item in enumerate(new, end - len(new))
        ]
        if rows:
            await self._connection.execute(insert(items), rows)
        return True

    async def page(
        self,
        tenant: str,
        conversation_id: str,
        limit: int | None,
        *,
        descending: bool = False,
        after: int | None = None,
        below: int | None = None,
    ) -> list[tuple[str, bytes]]:
        """Ids and sealed items in order of position; ``after`` is the last position seen, and all
        stand below position ``below``."""
        query = select(items.c.id, items.c.sealed).where(_in(tenant, conversation_id))
        if after is not None:
            place = items.c.position
            query = query.where(place < after if descending else place > after)
        if below is not None:
            query = query.where(items.c.position < below)
        order = items.c.position.desc() if descending else items.c.position
        query = query.order_by(order).limit(limit)
        return [(row.id, row.sealed) for row in await self._connection.execute(query)]

    async def item(
        self, tenant: str, conversation_id: str, item_id: str
    ) -> tuple[int, bytes] | None:
        """Position and sealed content of an item, or None."""
        query = select(items.c.position, items.c.sealed).where(
            _in(tenant, conversation_id), items.c.id == item_id
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else (row.position, row.sealed)

    async def remove_item(self, tenant: str, conversation_id: str, item_id: str) -> bool:
        """Erase one item; False when there is none."""
        erased = await self._connection.execute(
            delete(items)
            .where(_in(tenant, conversation_id), items.c.id == item_id)
            .returning(items.c.size)
        )
        freed: Any = erased.scalar_one_or_none()
        if freed is None:
            return False
        await self._connection.execute(
            update(conversations)
            .where(_is(tenant, conversation_id))
            .values(count=conversations.c.count - 1, size=conversations.c.size - freed)
        )
        return True


def _is(tenant: str, conversation_id: str) -> ColumnElement[bool]:
    return and_(conversations.c.tenant == tenant, conversations.c.id == conversation_id)


def _in(tenant: str, conversation_id: str) -> ColumnElement[bool]:
    return and_(items.c.tenant == tenant, items.c.conversation_id == conversation_id)
