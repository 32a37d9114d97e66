"""All SQL of stored responses. Values in, values out; lives as long as one transaction.

Responses that continue one another are a tree, a *thread*. Each row has only what its own request
added, so that a context is the rows from a response up to the thread's first: storage grows with
what is said, not with its square. A row that is deleted, or has expired, is not found by its id any
more; it goes when nothing that is left stands on it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Text,
    and_,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.inserting import insert_new
from sessions.models import conversations, responses
from sessions.responses.types import CONVERSATION_BYTES, MAX_CHAIN, MAX_CONTEXT_BYTES

_VICTIMS_A_QUERY = 200


@dataclass(frozen=True, slots=True)
class Link:
    """One response's part of a context."""

    id: str
    session_id: str
    turn: int
    previous_id: str | None
    thread: str
    conversation_id: str | None
    position: int
    deleted: bool
    expires_at: datetime
    content_size: int
    content: bytes
    """Sealed."""

    def found(self, now: datetime) -> bool:
        """Whether it is to be had by its id."""
        return not self.deleted and self.expires_at > now


@dataclass(frozen=True, slots=True)
class Row:
    """A new response as it is stored; columns of its table."""

    tenant: str
    id: str
    session_id: str
    turn: int
    previous_id: str | None
    thread: str
    conversation_id: str | None
    position: int
    created_at: datetime
    expires_at: datetime
    content_size: int
    size: int
    answer: bytes
    content: bytes
    deleted: bool = False


class ResponseRepository:
    """Rows of responses inside one transaction; see ``Database.begin`` for errors."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, row: Row) -> None:
        """Store a response. A second time changes nothing."""
        values = {name: getattr(row, name) for name in Row.__slots__}
        await self._connection.execute(insert_new(self._connection, responses).values(values))

    async def answer(
        self, tenant: str, response_id: str, now: datetime
    ) -> tuple[bytes, bytes] | None:
        """Sealed answer and content of a response that is to be had, or None."""
        query = select(responses.c.answer, responses.c.content).where(
            _is(tenant, response_id), _found(now)
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else (row.answer, row.content)

    async def chain(self, tenant: str, response_id: str) -> list[Link]:
        """A response and what it continues, oldest first; empty when there is none. At most
        ``MAX_CHAIN + 1`` links, and none beyond the one that makes it more than
        ``MAX_CONTEXT_BYTES``. The oldest has a ``previous_id`` when what it continued is gone."""
        newest = (
            select(
                responses.c.id,
                responses.c.previous_id,
                literal(1).label("depth"),
                responses.c.content_size.label("total"),
            )
            .where(_is(tenant, response_id))
            .cte("chain", recursive=True)
        )
        older = responses.alias()
        chain = newest.union_all(
            select(
                older.c.id,
                older.c.previous_id,
                newest.c.depth + 1,
                newest.c.total + older.c.content_size,
            ).where(
                older.c.tenant == tenant,
                older.c.id == newest.c.previous_id,
                newest.c.depth <= MAX_CHAIN,
                newest.c.total <= MAX_CONTEXT_BYTES,
            )
        )
        told: list[Column[Any]] = [responses.c[name] for name in Link.__slots__]
        query = (
            select(*told)
            .join(chain, responses.c.id == chain.c.id)
            .where(responses.c.tenant == tenant)
            .order_by(chain.c.depth.desc())
        )
        return [Link(**row._mapping) for row in await self._connection.execute(query)]

    async def delete(self, tenant: str, response_id: str, now: datetime) -> bool:
        """Have it found no more; False when it was not. Erases it, and those deleted before it,
        unless others stand on them."""
        hidden = await self._connection.execute(
            update(responses).where(_is(tenant, response_id), _found(now)).values(deleted=True)
        )
        if hidden.rowcount != 1:
            return False
        name: str | None = response_id
        child = responses.alias()
        for _ in range(MAX_CHAIN):
            stands = select(child.c.id).where(
                child.c.tenant == tenant, child.c.previous_id == responses.c.id
            )
            erased = await self._connection.execute(
                delete(responses)
                .where(_is(tenant, name or ""), responses.c.deleted, ~stands.exists())
                .returning(responses.c.previous_id)
            )
            name = erased.scalar_one_or_none()
            if name is None:
                break
        return True

    async def purge(self, now: datetime, batch: int) -> int:
        """Erase the responses of at most ``batch`` threads in which none is left to be had by
        its age; returns how many responses."""
        younger = responses.alias()
        alive = select(younger.c.id).where(
            younger.c.tenant == responses.c.tenant,
            younger.c.thread == responses.c.thread,
            younger.c.expires_at > now,
        )
        over = (
            select(responses.c.tenant, responses.c.thread)
            .where(responses.c.expires_at <= now, ~alive.exists())
            .distinct()
            .limit(batch)
        )
        threads = [tuple(row) for row in await self._connection.execute(over)]
        erased = await self._connection.execute(
            delete(responses).where(tuple_(responses.c.tenant, responses.c.thread).in_(threads))
        )
        return erased.rowcount

    async def trim(self, tenant: str, goal: int) -> None:
        """Erase what expires first, whole threads and conversations, until the tenant's are of at
        most ``goal`` bytes."""
        held = await self._held(tenant)
        while held > goal:
            threads = (
                select(
                    literal("thread").label("kind"),
                    responses.c.thread.label("name"),
                    func.sum(responses.c.size).label("size"),
                    func.max(responses.c.expires_at).label("expiry"),
                )
                .where(responses.c.tenant == tenant)
                .group_by(responses.c.thread)
            )
            talks = select(
                literal("conversation"),
                conversations.c.id,
                _size_of_conversation(),
                conversations.c.expires_at,
            ).where(conversations.c.tenant == tenant)
            oldest = threads.union_all(talks).order_by("expiry").limit(_VICTIMS_A_QUERY)
            victims = (await self._connection.execute(oldest)).all()
            if not victims:
                return
            names: dict[str, list[str]] = {"thread": [], "conversation": []}
            for victim in victims:
                if held <= goal:
                    break
                names[victim.kind].append(victim.name)
                held -= victim.size
            await self._connection.execute(
                delete(responses).where(
                    responses.c.tenant == tenant, responses.c.thread.in_(names["thread"])
                )
            )
            await self._connection.execute(
                delete(conversations).where(
                    conversations.c.tenant == tenant,
                    conversations.c.id.in_(names["conversation"]),
                )
            )

    async def _held(self, tenant: str) -> int:
        sizes = {responses: responses.c.size, conversations: _size_of_conversation()}
        total = 0
        for table, size in sizes.items():
            query = select(func.sum(size)).where(table.c.tenant == tenant)
            total += (await self._connection.execute(query)).scalar() or 0
        return int(total)


def _is(tenant: str, response_id: str) -> ColumnElement[bool]:
    return and_(responses.c.tenant == tenant, responses.c.id == response_id)


def _size_of_conversation() -> ColumnElement[int]:
    """Items, metadata and the row itself: many that are empty are not for nothing."""
    metadata = func.length(cast(conversations.c.metadata, Text))
    return conversations.c.size + metadata + CONVERSATION_BYTES


def _found(now: datetime) -> ColumnElement[bool]:
    return and_(responses.c.deleted.is_(False), responses.c.expires_at > now)
