"""What one can do with sessions: the only door to them for the rest of Valet.

Nothing slow happens inside a transaction: the engine is asked between two of them, and the second
one acts only on a session that is still as the first one left it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import Tier
from sessions.database import Database
from sessions.identity import check_session_id, is_session_id, new_session_id, session_key
from sessions.lifecycle import created, moved, turn_begun, turn_ended
from sessions.paging import (
    Page,
    after_session,
    before_turn,
    page_size,
    session_cursor,
    turn_cursor,
)
from sessions.ports import Clock, KvControl
from sessions.reconcile import Reconciled, reconcile
from sessions.repository import SessionRepository
from sessions.types import (
    ABORTED,
    BegunTurn,
    Session,
    SessionBusy,
    SessionNotFound,
    SessionState,
    StateUnavailable,
    Turn,
)
from sessions.uninterrupted import uninterrupted

_MAX_UNSTORED = 1024
"""Ends of turns kept in memory while the database fails; of more, the oldest wait for the next
start to find their turns unended."""


@dataclass(frozen=True, slots=True)
class _End:
    tenant: str
    turn: Turn
    fingerprint: str


class SessionService:
    """Sessions of all tenants. Used on one event loop; any number of calls may run at once.

    Every method may raise StateUnavailable. A method that names a session raises SessionNotFound
    when this tenant has none of that id. A method that asks the engine raises what the engine
    raises, and then leaves the session as it was.
    """

    def __init__(
        self,
        database: Database,
        kv: KvControl,
        clock: Clock,
        new_id: Callable[[], str] = new_session_id,
    ) -> None:
        self._database = database
        self._kv = kv
        self._clock = clock
        self._new_id = new_id
        self._unstored: deque[_End] = deque(maxlen=_MAX_UNSTORED)

    async def reconcile(self) -> Reconciled:
        """Make sessions and KV agree. Call it once, before the first turn.

        No turn runs then, so what an earlier process left active or resuming becomes parked when
        its KV is on SSD only, and idle otherwise. So does an idle session, whose DRAM copy the
        restart took. Parked and expired sessions stay as they are, whatever is left of their KV.
        KV of sessions that the database does not have is dropped.

        Raises what the engine raises when it cannot say what it holds; nothing is changed then.
        """
        return await reconcile(self._database, self._kv, self._clock)

    # --- turns -----------------------------------------------------------------------------------

    async def begin_turn(self, tenant: str, session_id: str | None, model: str) -> BegunTurn:
        """Begin a turn, in a new session when the tenant has none of this id or gives no id.

        Turns of one session may run at once, each under its own number. ``model`` is one that the
        engine serves. A caller that is cancelled here has begun nothing. Raises InvalidSessionId.
        """
        name = self._new_id() if session_id is None else check_session_id(session_id)
        beginning = asyncio.ensure_future(self._begin(tenant, name, model))
        try:
            return await uninterrupted(beginning)
        except asyncio.CancelledError:
            if not beginning.cancelled() and beginning.exception() is None:
                await self.end_turn(beginning.result())
            raise

    async def end_turn(
        self,
        begun: BegunTurn,
        *,
        receipt: dict[str, Any] | None = None,
        fingerprint: str = "",
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        finish_reason: str | None = ABORTED,
    ) -> None:
        """Store how a turn ended; without a receipt it was aborted. A second end changes nothing.

        Completes even when the caller is cancelled. When it raises StateUnavailable, the end is
        kept and stored by the first later call that reaches the database.
        """
        turn = Turn(
            session_id=begun.session_id,
            number=begun.number,
            started_at=begun.started_at,
            ended_at=max(self._clock(), begun.started_at),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            finish_reason=finish_reason,
            receipt=receipt or {},
        )
        await uninterrupted(self._end(_End(begun.tenant, turn, fingerprint)))

    async def turns(
        self, tenant: str, session_id: str, limit: int = 20, after: str | None = None
    ) -> Page[Turn]:
        """Ended turns, newest first. ``after`` is a page's ``next``. Raises InvalidCursor."""
        size, before = page_size(limit), None if after is None else before_turn(after)
        async with self._transaction() as repo:
            await _existing(repo, tenant, session_id)
            found = await repo.page_of_turns(tenant, session_id, size + 1, before)
        return Page.of(found, size, turn_cursor)

    # --- sessions --------------------------------------------------------------------------------

    async def get(self, tenant: str, session_id: str) -> Session:
        """One session."""
        async with self._transaction() as repo:
            return await _existing(repo, tenant, session_id)

    async def list(
        self,
        tenant: str,
        state: SessionState | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> Page[Session]:
        """The tenant's sessions, newest first by creation. ``after`` is a page's ``next``. Raises
        InvalidCursor."""
        size, place = page_size(limit), None if after is None else after_session(after)
        async with self._transaction() as repo:
            found = await repo.page(tenant, state, size + 1, place)
        return Page.of(found, size, session_cursor)

    async def kv(self, tenant: str, session_id: str) -> SessionKv:
        """Where the session's KV is."""
        await self.get(tenant, session_id)
        return await self._kv.status(session_key(tenant, session_id))

    async def park(self, tenant: str, session_id: str) -> SessionKv:
        """Have the session's KV on SSD alone; returns when it is there. Where the copy could not be
        completed (no store, a full disk) the KV stays where it is, and so does the state.

        Raises SessionBusy when a turn runs, or ran meanwhile. An expired session stays expired.
        """
        session = await self._without_turn(tenant, session_id)
        parked = await self._kv.park(session_key(tenant, session_id))
        async with self._transaction() as repo:
            session = await _unchanged(repo, session)
            stays = session.state is SessionState.EXPIRED or (
                parked.known and not parked.ssd_complete
            )
            if not stays:
                await repo.save(moved(session, SessionState.PARKED))
        return parked

    async def prefetch(
        self, tenant: str, session_id: str, tier: Tier, deadline_ms: int
    ) -> Prefetched:
        """Bring the session's KV up to ``tier``.

        A parked session is resuming meanwhile, then idle; parked again when nothing came. In any
        other state this is advice to the engine and the state stays.
        """
        async with self._transaction() as repo:
            session = await _existing(repo, tenant, session_id, lock=True)
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

    async def delete(self, tenant: str, session_id: str) -> Dropped:
        """Drop the session's KV from every tier, then forget the session and its turns.

        Raises SessionBusy when a turn runs, or ran meanwhile; the session is then kept.
        """
        session = await self._without_turn(tenant, session_id)
        dropped = await self._kv.drop(session_key(tenant, session_id))
        async with self._transaction() as repo:
            await _unchanged(repo, session)
            await repo.remove(tenant, session_id)
        return dropped

    # --- units of work ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[SessionRepository]:
        unstored = tuple(self._unstored)
        async with self._database.transaction() as repo:
            for end in unstored:
                await _store(repo, end)
            yield repo
        for end in unstored:
            # Another task may have stored the same ends; the second time changed nothing.
            if end in self._unstored:
                self._unstored.remove(end)

    async def _begin(self, tenant: str, session_id: str, model: str) -> BegunTurn:
        now = self._clock()
        async with self._transaction() as repo:
            previous = await repo.find(tenant, session_id, lock=True)
            session = previous or created(tenant, session_id, model, now)
            if previous is None and not await repo.add(session):
                session = previous = await _existing(repo, tenant, session_id, lock=True)
            begun = BegunTurn(
                tenant=tenant,
                session_id=session_id,
                number=session.turns + session.running + 1,
                started_at=now,
                previous=previous,
            )
            await repo.save(turn_begun(session, model, now))
            await repo.add_turn(begun)
        return begun

    async def _end(self, end: _End) -> None:
        try:
            async with self._transaction() as repo:
                await _store(repo, end)
        except StateUnavailable:
            self._unstored.append(end)
            raise

    async def _without_turn(self, tenant: str, session_id: str) -> Session:
        session = await self.get(tenant, session_id)
        if session.running:
            raise SessionBusy("The session has a running turn.")
        return session

    async def _resumed(self, session: Session, state: SessionState) -> None:
        async with self._transaction() as repo:
            now = await repo.find(session.tenant, session.id, lock=True)
            # A turn, a park or another prefetch may have been quicker; then there is its state.
            if now is not None and now.state is SessionState.RESUMING:
                await repo.save(moved(now, state))


async def _existing(
    repo: SessionRepository, tenant: str, session_id: str, *, lock: bool = False
) -> Session:
    # What cannot be an id may not even be text that a database takes.
    session = await repo.find(tenant, session_id, lock=lock) if is_session_id(session_id) else None
    if session is None:
        raise SessionNotFound("No such session.")
    return session


async def _unchanged(repo: SessionRepository, before: Session) -> Session:
    now = await _existing(repo, before.tenant, before.id, lock=True)
    same = (now.created_at, now.turns, now.running)
    if same != (before.created_at, before.turns, before.running):
        raise SessionBusy("A turn of the session began meanwhile.")
    return now


async def _store(repo: SessionRepository, end: _End) -> None:
    session = await repo.find(end.tenant, end.turn.session_id, lock=True)
    if session is not None and await repo.end_turn(end.tenant, end.turn):
        await repo.save(turn_ended(session, end.turn, end.fingerprint))
