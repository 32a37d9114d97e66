"""What happened to a session, written in the transaction in which it happened.

An event says what and when, and in its details how much and by whom: never a word of content. It
outlives its session.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.models import events
from sessions.types import Lineage

MAX_EVENTS: Final = 500
"""Events of one session; a further one takes the place of the oldest."""
KEPT: Final = timedelta(days=90)
"""How long an event is remembered."""


class EventKind(StrEnum):
    """What happened."""

    CREATED = "created"
    FORKED = "forked"
    """Of both: the child's says from whom, the parent's says to whom."""
    PARKED = "parked"
    RESUMED = "resumed"
    """By a turn or by a prefetch: it was parked or expired."""
    EXPIRED = "expired"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    PIN_EXPIRED = "pin_expired"
    PIN_BROKEN = "pin_broken"
    """Others needed the room."""
    PIN_REFUSED = "pin_refused"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_DELETED = "checkpoint_deleted"
    ROLLED_BACK = "rolled_back"
    REWRITTEN = "rewritten"
    """A request changed the history in front of its end."""
    CHANGED = "changed"
    """Its terms or its metadata."""
    TURN_ABORTED = "turn_aborted"
    """The process that served the turn died."""
    KV_DROPPED = "kv_dropped"
    """To keep a quota."""
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """One of them."""

    id: int
    """Grows by the order of storing, over all tenants."""
    at: datetime
    kind: EventKind
    details: dict[str, Any]


class EventRepository:
    """Rows of events inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self, tenant: str, session_id: str, kind: EventKind, at: datetime, **details: Any
    ) -> None:
        """Store an event, and forget the session's beyond ``MAX_EVENTS``. ``details`` are small
        JSON values."""
        row = insert(events).values(
            tenant=tenant, session_id=session_id, at=at, kind=kind, details=details
        )
        await self._connection.execute(row)
        oldest_kept = (
            select(events.c.id)
            .where(_of(tenant, session_id))
            .order_by(events.c.id.desc())
            .offset(MAX_EVENTS - 1)
            .limit(1)
            .scalar_subquery()
        )
        await self._connection.execute(
            delete(events).where(_of(tenant, session_id), events.c.id < oldest_kept)
        )

    async def page(
        self, tenant: str, session_id: str, limit: int, before: int | None
    ) -> list[Event]:
        """At most ``limit``, newest first, of an id below ``before``."""
        query = select(events.c.id, events.c.at, events.c.kind, events.c.details)
        query = query.where(_of(tenant, session_id))
        if before is not None:
            query = query.where(events.c.id < before)
        found = await self._connection.execute(query.order_by(events.c.id.desc()).limit(limit))
        return [Event(row.id, row.at, EventKind(row.kind), row.details) for row in found]

    async def forget(self, before: datetime, limit: int) -> int:
        """Remove at most ``limit`` events of all tenants from before that time, the oldest first;
        how many."""
        old = select(events.c.id).where(events.c.at < before).order_by(events.c.at).limit(limit)
        result = await self._connection.execute(delete(events).where(events.c.id.in_(old)))
        return result.rowcount


async def tell_of_fork(
    repo: EventRepository, tenant: str, session_id: str, lineage: Lineage, at: datetime
) -> None:
    """Events of a fork and of the session that it comes from."""
    parent, turn = lineage.parent_id, lineage.parent_turn
    await repo.add(tenant, session_id, EventKind.FORKED, at, parent_id=parent, parent_turn=turn)
    await repo.add(tenant, parent, EventKind.FORKED, at, child_id=session_id, turn=turn)


async def forget_events(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Remove events that are too old; how many."""
    return await EventRepository(connection).forget(now - KEPT, limit)


def _of(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(events.c.tenant == tenant, events.c.session_id == session_id)
