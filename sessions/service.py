"""What one can do with sessions: the only door to them for the rest of Valet."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database
from sessions.identity import check_session_id, is_session_id, new_session_id
from sessions.lifecycle import created, interrupted, kept, turn_begun, turn_ended
from sessions.line import Ticket
from sessions.lookup import existing
from sessions.moves import Moves
from sessions.paging import (
    Page,
    RowCursors,
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
    AuditRow,
    BegunTurn,
    Lineage,
    OutcomeUnknown,
    Session,
    SessionNotFound,
    SessionState,
    StateUnavailable,
    Terms,
    Turn,
)
from sessions.uninterrupted import uninterrupted
from sessions.units import Units, Write, Writes
from sessions.upkeep.events import Event, EventKind, EventRepository, tell_of_fork
from sessions.upkeep.placements import place


class SessionService(Moves):
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
        instance: str = "",
        terms: Terms = Terms(),  # noqa: B008 - a value
        secret: bytes | None = None,
    ) -> None:
        """``instance`` names this API process, the same after a restart. ``secret`` is the
        installation's; without it some cursors are this service's alone."""
        super().__init__(Units(database), kv, clock, instance)
        self._database = database
        self._new_id = new_id
        self._terms = terms
        self._cursors = RowCursors(secret or os.urandom(32))

    async def reconcile(self) -> Reconciled:
        """Make sessions and KV agree. Call it once, before the first turn.

        No turn of this instance runs then, so what its last process left active or resuming becomes
        parked when its KV is on SSD only, and idle otherwise. So does an idle session, whose DRAM
        copy the restart took. Parked and expired sessions stay as they are, whatever is left of
        their KV. KV of sessions that the database does not have is dropped; an audit row says so.

        Raises what the engine raises when it cannot say what it holds; nothing is changed then.
        """
        return await reconcile(self._database, self._kv, self._clock, self._instance)

    # --- turns -----------------------------------------------------------------------------------

    async def begin_turn(
        self,
        tenant: str,
        session_id: str | None,
        model: str,
        also: Writes = (),
        lineage: Lineage | None = None,
    ) -> BegunTurn:
        """Begin a turn, in a new session when the tenant has none of this id or gives no id; that
        is a fork if it comes from ``lineage``.

        Turns of one session may run at once, each under its own number. ``model`` is one that the
        engine serves. ``also`` is written with it or not at all. A caller that is cancelled here
        has begun nothing. Raises InvalidSessionId.
        """
        name = self._new_id() if session_id is None else check_session_id(session_id)
        beginning = asyncio.ensure_future(self._begin(tenant, name, model, also, lineage))
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
        also: Writes = (),
        ticket: Ticket | None = None,
    ) -> None:
        """Store how a turn ended; without a receipt it was aborted. A second end changes nothing.
        ``also`` is written with the end or not at all; not when the session is gone. ``ticket`` is
        one of ``units``, for its place among others.

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
        end = partial(_store_end, begun, turn, fingerprint, self._terms, tuple(also))
        await uninterrupted(self._end(end, ticket))

    async def turns(
        self, tenant: str, session_id: str, limit: int = 20, after: str | None = None
    ) -> Page[Turn]:
        """Ended turns, newest first. ``after`` is a page's ``next``. Raises InvalidCursor."""
        size, before = page_size(limit), None if after is None else before_turn(after)
        async with self.units.begin() as repo:
            await existing(repo, tenant, session_id)
            found = await repo.page_of_turns(tenant, session_id, size + 1, before)
        return Page.of(found, size, turn_cursor)

    # --- sessions --------------------------------------------------------------------------------

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
        async with self.units.begin() as repo:
            found = await repo.page(tenant, state, size + 1, place)
        return Page.of(found, size, session_cursor)

    async def children(
        self, tenant: str, session_id: str, limit: int = 20, after: str | None = None
    ) -> Page[Session]:
        """The sessions that were forked from this one, newest first. ``after`` is a page's
        ``next``. Raises InvalidCursor."""
        size, place = page_size(limit), None if after is None else after_session(after)
        async with self.units.begin() as repo:
            await existing(repo, tenant, session_id)
            found = await repo.page_of_children(tenant, session_id, size + 1, place)
        return Page.of(found, size, session_cursor)

    async def find_all(self, names: Sequence[tuple[str, str]]) -> Sequence[Session]:
        """The sessions that exist among ``names`` (tenant, id), in any order."""
        async with self.units.begin() as repo:
            return await repo.find_all(names)

    async def update(self, tenant: str, session_id: str, changes: Mapping[str, Any]) -> Session:
        """Change ``ttl_s``, ``metadata`` or both; what ``changes`` does not name stays."""
        async with self.units.begin() as repo:
            session = await existing(repo, tenant, session_id, lock=True)
            after = replace(session, **changes)
            if after != session:
                # An expired session is forgotten when that was said, whatever its terms become.
                if after.state is not SessionState.EXPIRED:
                    after = kept(after, self._terms)
                await repo.save(after)
                fields = sorted(changes)
                await self._tell(repo, session, EventKind.CHANGED, fields=fields)
        return after

    async def events(
        self, tenant: str, session_id: str, limit: int = 20, after: str | None = None
    ) -> Page[Event]:
        """What happened to a session, newest first; of one that is gone, as long as it is known.
        ``after`` is a page's ``next``. Raises InvalidCursor."""
        size, before = (
            page_size(limit),
            None if after is None else self._cursors.before_event(tenant, after),
        )
        if not is_session_id(session_id):
            raise SessionNotFound("No such session.")
        async with self.units.begin() as repo:
            events = EventRepository(repo.connection)
            found = await events.page(tenant, session_id, size + 1, before)
            if not found:
                await existing(repo, tenant, session_id)
        return Page.of(found, size, partial(self._cursors.event, tenant))

    async def audit(self, tenant: str, limit: int = 20, after: str | None = None) -> Page[AuditRow]:
        """What was deleted of the tenant's, newest first. ``after`` is a page's ``next``. Raises
        InvalidCursor."""
        size, before = (
            page_size(limit),
            None if after is None else self._cursors.before_audit(tenant, after),
        )
        async with self.units.begin() as repo:
            found = await repo.page_of_audit(tenant, size + 1, before)
        return Page.of(found, size, partial(self._cursors.audit, tenant))

    # --- units of work ---------------------------------------------------------------------------

    async def _begin(
        self, tenant: str, session_id: str, model: str, also: Writes, lineage: Lineage | None
    ) -> BegunTurn:
        now = self._clock()

        async def begin(connection: AsyncConnection) -> BegunTurn:
            repo = SessionRepository(connection)
            previous = await repo.find(tenant, session_id, lock=True)
            session = previous or created(tenant, session_id, model, now, lineage)
            if previous is None and not await repo.add(session):
                session = previous = await existing(repo, tenant, session_id, lock=True)
            begun = BegunTurn(
                tenant=tenant,
                session_id=session_id,
                number=session.turns + session.running + 1,
                started_at=now,
                instance=self._instance,
                previous=previous,
            )
            await repo.save(kept(turn_begun(session, model, self._instance, now), self._terms))
            await repo.add_turn(begun)
            await place(connection, begun)
            await _tell_of_begin(EventRepository(connection), begun, lineage)
            for write in also:
                await write(connection)
            return begun

        last: BegunTurn | None = None

        async def noted(connection: AsyncConnection) -> BegunTurn:
            nonlocal last
            last = await begin(connection)
            return last

        try:
            return await self.units.run(noted)
        except OutcomeUnknown:
            # Nobody will end the turn if it began after all.
            if last is not None:
                self.units.postpone(partial(_abort_unheard, last, self._clock()))
            raise

    async def _end(self, end: Write, ticket: Ticket | None) -> None:
        try:
            await self.units.run(end, ticket)
        except StateUnavailable:
            self.units.postpone(end)
            raise


async def _store_end(
    begun: BegunTurn,
    turn: Turn,
    fingerprint: str,
    terms: Terms,
    also: Writes,
    connection: AsyncConnection,
) -> None:
    repo = SessionRepository(connection)
    session = await repo.find(begun.tenant, begun.session_id, lock=True)
    if session is not None and await repo.end_turn(begun, turn):
        await repo.save(kept(turn_ended(session, turn, fingerprint), terms))
        for write in also:
            await write(connection)


async def _abort_unheard(begun: BegunTurn, at: datetime, connection: AsyncConnection) -> None:
    repo = SessionRepository(connection)
    session = await repo.find(begun.tenant, begun.session_id, lock=True)
    # Its number may be another turn's by now.
    if session is not None and await repo.abort_turn(begun, max(at, begun.started_at)):
        await repo.save(interrupted(session, 1))


async def _tell_of_begin(
    events: EventRepository, begun: BegunTurn, lineage: Lineage | None
) -> None:
    """A turn is no event: it is listed as what it is. What it may bring about is one."""
    tenant, session_id, at = begun.tenant, begun.session_id, begun.started_at
    if begun.previous is None:
        await events.add(tenant, session_id, EventKind.CREATED, at)
        if lineage is not None:
            await tell_of_fork(events, tenant, session_id, lineage, at)
    elif begun.previous.state in (SessionState.PARKED, SessionState.EXPIRED):
        was = begun.previous.state
        await events.add(tenant, session_id, EventKind.RESUMED, at, by="turn", was=was)
