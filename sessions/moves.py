"""What becomes of a session's KV at somebody's word: parked, brought up, dropped, deleted.

Nothing slow happens inside a transaction: the engine is asked between two of them, and the second
one acts only on a session that is still as the first one left it.
"""

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import Tier
from sessions.identity import session_key
from sessions.lifecycle import moved
from sessions.lookup import existing, unchanged
from sessions.ports import Clock, KvControl
from sessions.repository import SessionRepository
from sessions.types import AuditAction, Session, SessionBusy, SessionNotFound, SessionState
from sessions.uninterrupted import uninterrupted
from sessions.units import Units
from sessions.upkeep.events import EventKind, EventRepository
from sessions.upkeep.orders import order_drop


class Moves:
    """The part of ``SessionService`` that asks the engine. See there for errors."""

    def __init__(self, units: Units, kv: KvControl, clock: Clock, instance: str) -> None:
        self.units = units
        self._instance = instance
        self._kv = kv
        self._clock = clock

    async def get(self, tenant: str, session_id: str) -> Session:
        """One session."""
        async with self.units.begin() as repo:
            return await existing(repo, tenant, session_id)

    async def kv(self, tenant: str, session_id: str) -> SessionKv:
        """Where the session's KV is."""
        await self.get(tenant, session_id)
        return await self._kv.status(session_key(tenant, session_id))

    async def park(self, tenant: str, session_id: str, by: str = "request") -> SessionKv:
        """Have the session's KV on SSD alone; returns when it is there. Where the copy could not be
        completed (no store, a full disk) the KV stays where it is, and so does the state; and where
        another process served the session last and this one's engine has nothing of it. ``by`` says
        in the event who wanted it.

        Raises SessionBusy when a turn runs, or ran meanwhile. An expired session stays expired.
        """
        session = await self._without_turn(tenant, session_id)
        parked = await self._kv.park(session_key(tenant, session_id))
        async with self.units.begin() as repo:
            session = await unchanged(repo, session)
            elsewhere = session.instance not in ("", self._instance)
            stays = (
                session.state in (SessionState.EXPIRED, SessionState.PARKED)
                or (parked.known and not parked.ssd_complete)
                or (elsewhere and not parked.known)
            )
            if not stays:
                await repo.save(moved(session, SessionState.PARKED))
                await self._tell(repo, session, EventKind.PARKED, by=by)
        return parked

    async def prefetch(
        self, tenant: str, session_id: str, tier: Tier, deadline_ms: int
    ) -> Prefetched:
        """Bring the session's KV up to ``tier``.

        A parked session is resuming meanwhile, then idle; parked again when nothing came. In any
        other state this is advice to the engine and the state stays.
        """
        async with self.units.begin() as repo:
            session = await existing(repo, tenant, session_id, lock=True)
            if session.state is SessionState.PARKED:
                session = moved(session, SessionState.RESUMING)
                await repo.save(session)
        after = SessionState.PARKED
        try:
            prefetched = await self._kv.prefetch(session_key(tenant, session_id), tier, deadline_ms)
            if prefetched.tokens > 0:
                after = SessionState.IDLE
            return prefetched
        finally:
            if session.state is SessionState.RESUMING:
                await uninterrupted(self._resumed(session, after))

    async def drop_kv(self, tenant: str, session_id: str, reason: str = "quota") -> Dropped:
        """Drop the session's KV from every tier; the session stays, in the state it has. An event
        and an audit row say so. Raises SessionBusy when a turn runs."""
        session = await self._without_turn(tenant, session_id)
        dropped = await self._kv.drop(session_key(tenant, session_id))
        await uninterrupted(self._dropped(session, dropped, reason))
        return dropped

    async def delete(self, tenant: str, session_id: str) -> Dropped:
        """Drop the session's KV from every tier, then forget the session and its turns; an audit
        row says so.

        Raises SessionBusy when a turn runs, or ran meanwhile; the session is then kept. The KV that
        was dropped nevertheless has its audit row.
        """
        session = await self._without_turn(tenant, session_id)
        dropped = await self._kv.drop(session_key(tenant, session_id))
        try:
            await uninterrupted(self._forget(session, dropped))
        finally:
            self.units.on_changed(tenant, session_id)
        return dropped

    async def _without_turn(self, tenant: str, session_id: str) -> Session:
        session = await self.get(tenant, session_id)
        if session.running:
            raise SessionBusy("The session has a running turn.")
        return session

    async def _resumed(self, session: Session, state: SessionState) -> None:
        async with self.units.begin() as repo:
            now = await repo.find(session.tenant, session.id, lock=True)
            # A turn, a park or another prefetch may have been quicker; then there is its state.
            if now is not None and now.state is SessionState.RESUMING:
                await repo.save(moved(now, state))
                if state is SessionState.IDLE:
                    was = SessionState.PARKED
                    await self._tell(repo, session, EventKind.RESUMED, by="prefetch", was=was)

    async def _dropped(self, session: Session, dropped: Dropped, reason: str) -> None:
        async with self.units.begin() as repo:
            if dropped.known or dropped.key_destroyed:
                at = self._clock()
                action = AuditAction.KV_DROPPED
                await repo.add_audit(action, session.tenant, session.id, dropped, at)
                about = {"chunks": dropped.chunks, "bytes": dropped.bytes, "reason": reason}
                await self._tell(repo, session, EventKind.KV_DROPPED, **about)

    async def _forget(self, session: Session, dropped: Dropped) -> None:
        action, refusal = AuditAction.SESSION_DELETED, None
        about = {"chunks": dropped.chunks, "bytes": dropped.bytes}
        async with self.units.begin() as repo:
            try:
                now = await unchanged(repo, session)
                await order_drop(repo.connection, now, self._clock(), but=self._instance)
                await repo.remove(session.tenant, session.id)
                await self._tell(repo, session, EventKind.DELETED, **about)
            except (SessionBusy, SessionNotFound) as error:
                action, refusal = AuditAction.KV_DROPPED, error
            # The later of two deletions at once may have found nothing at all to drop.
            if refusal is None or dropped.known or dropped.key_destroyed:
                await repo.add_audit(action, session.tenant, session.id, dropped, self._clock())
        if refusal is not None:
            raise refusal

    async def _tell(
        self, repo: SessionRepository, session: Session, kind: EventKind, **details: object
    ) -> None:
        events = EventRepository(repo.connection)
        await events.add(session.tenant, session.id, kind, self._clock(), **details)
