"""Sessions whose time is over: first their KV goes, later they do.

Both are chores of the reaper, about all tenants. Their KV is with the engines of the processes that
served them, each of which is ordered to drop it in the transaction that expires the session.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.hints import Dropped
from sessions.identity import session_key
from sessions.leases.repository import PinRepository
from sessions.lifecycle import expired
from sessions.repository import SessionRepository
from sessions.types import AuditAction, SessionState, Terms
from sessions.upkeep.events import EventKind, EventRepository
from sessions.upkeep.orders import order_drop


class Expiry:
    """Chores, under an installation's terms."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    async def expire(self, connection: AsyncConnection, now: datetime, limit: int) -> int:
        """Expire idle and parked sessions; how many."""
        repo, events = SessionRepository(connection), EventRepository(connection)
        resting = (SessionState.IDLE, SessionState.PARKED)
        due = await repo.take_due(resting, now, limit)
        for session in due:
            await repo.save(expired(session, self._terms, now))
            await PinRepository(connection).remove_all(session.tenant, session.id)
            await order_drop(connection, session, now)
            was = session.state
            await events.add(session.tenant, session.id, EventKind.EXPIRED, now, was=was)
        return len(due)

    async def remove(self, connection: AsyncConnection, now: datetime, limit: int) -> int:
        """Forget expired sessions whose retention is over, each with its audit row; how many."""
        repo, events = SessionRepository(connection), EventRepository(connection)
        due = await repo.take_due((SessionState.EXPIRED,), now, limit)
        for session in due:
            nothing = Dropped(session_key(session.tenant, session.id), known=False)
            action = AuditAction.SESSION_REMOVED
            await order_drop(connection, session, now)
            await repo.remove(session.tenant, session.id)
            await repo.add_audit(action, session.tenant, session.id, nothing, now)
            await events.add(session.tenant, session.id, EventKind.DELETED, now, by="retention")
        return len(due)
