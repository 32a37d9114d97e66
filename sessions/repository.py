"""All SQL. Values in, values out; one repository lives as long as one transaction.

Nothing here is particular to one database. A row that will be changed is read with ``lock=True``:
SQLite ignores it, since a transaction there locks everything.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.hints import Dropped
from sessions import prepared
from sessions.inserting import insert_new
from sessions.models import audit, sessions, turns
from sessions.types import (
    ABORTED,
    AuditAction,
    AuditRow,
    BegunTurn,
    Session,
    SessionState,
    Turn,
)

MAX_AUDIT_ROWS = 100_000
"""Audit rows of one tenant; of more, the oldest are forgotten when its rows are next counted."""
_TRIM_EVERY = 251
"""Audit rows between two countings, which are slow. A prime: tenants that take turns to add rows
are all counted."""

_KEYS_A_QUERY = 500
_TURN = [column for column in turns.c if column.name in Turn.__dataclass_fields__]


class SessionRepository:
    """Rows of sessions, turns and audit inside one transaction; see ``Database.transaction`` for
    errors.

    A session is named by tenant and id; ids may be any text, and one that was never stored is
    simply not found.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def find(self, tenant: str, session_id: str, *, lock: bool = False) -> Session | None:
        """The session, or None."""
        query = prepared.FIND_AND_LOCK if lock else prepared.FIND
        result = await self.connection.execute(query, {"of_tenant": tenant, "of_id": session_id})
        row = result.one_or_none()
        return None if row is None else _session(row)

    async def add(self, session: Session) -> bool:
        """Store a new session; False when its name is taken, perhaps by a concurrent unit."""
        result = await self.connection.execute(
            insert_new(self.connection, sessions).values(prepared.values(session))
        )
        return result.rowcount == 1

    async def save(self, session: Session) -> None:
        """Store the session's new values; its row exists and is locked."""
        name = {"of_tenant": session.tenant, "of_id": session.id}
        await self.connection.execute(prepared.SAVE, prepared.values(session) | name)

    async def remove(self, tenant: str, session_id: str) -> None:
        """Delete the session and its turns."""
        await self.connection.execute(delete(sessions).where(_is(tenant, session_id)))

    async def page(
        self,
        tenant: str,
        state: SessionState | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> list[Session]:
        """At most ``limit`` of the tenant's sessions, newest first, created before ``after``
        (creation time and id)."""
        query = select(sessions).where(sessions.c.tenant == tenant)
        if state is not None:
            query = query.where(sessions.c.state == state)
        if after is not None:
            query = query.where(_older(sessions.c.created_at, sessions.c.id, after))
        query = query.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit)
        return [_session(row) for row in await self.connection.execute(query)]

    async def page_of_children(
        self, tenant: str, parent_id: str, limit: int, after: tuple[datetime, str] | None
    ) -> list[Session]:
        """At most ``limit`` sessions forked from ``parent_id``, newest first, as ``page``."""
        query = select(sessions).where(
            sessions.c.tenant == tenant, sessions.c.parent_id == parent_id
        )
        if after is not None:
            query = query.where(_older(sessions.c.created_at, sessions.c.id, after))
        query = query.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit)
        return [_session(row) for row in await self.connection.execute(query)]

    async def count_children(self, tenant: str, parent_id: str) -> int:
        """Sessions forked from ``parent_id``."""
        query = select(func.count()).where(
            sessions.c.tenant == tenant, sessions.c.parent_id == parent_id
        )
        return (await self.connection.execute(query)).scalar_one()

    async def in_states(
        self, states: Collection[SessionState], instances: Collection[str]
    ) -> list[Session]:
        """Every session of every tenant that is in one of ``states`` and was last served by one of
        ``instances``."""
        query = select(sessions).where(
            sessions.c.state.in_(states), sessions.c.instance.in_(instances)
        )
        return [_session(row) for row in await self.connection.execute(query)]

    async def take_due(
        self, states: Collection[SessionState], now: datetime, limit: int
    ) -> list[Session]:
        """At most ``limit`` sessions in one of ``states`` whose ``expires_at`` has come, locked. Of
        all tenants; the longest overdue first."""
        query = select(sessions).where(sessions.c.expires_at <= now, sessions.c.state.in_(states))
        query = query.order_by(sessions.c.expires_at).limit(limit).with_for_update()
        return [_session(row) for row in await self.connection.execute(query)]

    async def idle_since(
        self, instance: str, before: datetime, after: tuple[datetime, str, str] | None, limit: int
    ) -> list[Session]:
        """At most ``limit`` idle sessions last served by ``instance`` and last active before that
        time; the longest idle first, those behind ``after`` (that time, tenant and id)."""
        place = (sessions.c.last_active_at, sessions.c.tenant, sessions.c.id)
        query = select(sessions).where(
            sessions.c.instance == instance,
            sessions.c.state == SessionState.IDLE,
            sessions.c.last_active_at < before,
        )
        if after is not None:
            query = query.where(tuple_(*place) > after)
        found = await self.connection.execute(query.order_by(*place).limit(limit))
        return [_session(row) for row in found]

    async def find_all(self, names: Sequence[tuple[str, str]]) -> list[Session]:
        """The sessions that exist among ``names`` (tenant, id), in any order."""
        found: list[Session] = []
        for start in range(0, len(names), _KEYS_A_QUERY):
            some = names[start : start + _KEYS_A_QUERY]
            query = select(sessions).where(tuple_(sessions.c.tenant, sessions.c.id).in_(some))
            found += [_session(row) for row in await self.connection.execute(query)]
        return found

    async def add_turn(self, begun: BegunTurn) -> None:
        """Store a running turn."""
        begins = {
            "tenant": begun.tenant,
            "session_id": begun.session_id,
            "number": begun.number,
            "started_at": begun.started_at,
            "instance": begun.instance,
            "rolled_back": False,
        }
        await self.connection.execute(prepared.ADD_TURN, begins)

    async def end_turn(self, begun: BegunTurn, turn: Turn) -> bool:
        """Store how this very turn ended; False when it does not run."""
        ends = {
            "of_tenant": begun.tenant,
            "of_session": begun.session_id,
            "of_number": begun.number,
            "of_instance": begun.instance,
            "of_started_at": begun.started_at,
            "ended_at": turn.ended_at,
            "prompt_tokens": turn.prompt_tokens,
            "output_tokens": turn.output_tokens,
            "finish_reason": turn.finish_reason,
            "receipt": turn.receipt,
        }
        result = await self.connection.execute(prepared.END_TURN, ends)
        return result.rowcount == 1

    async def abort_turn(self, begun: BegunTurn, now: datetime) -> bool:
        """End this very turn without an answer; False when it does not run."""
        result = await self.connection.execute(
            update(turns)
            .where(
                _of(begun.tenant, begun.session_id),
                turns.c.number == begun.number,
                turns.c.instance == begun.instance,
                turns.c.started_at == begun.started_at,
                turns.c.ended_at.is_(None),
            )
            .values(
                ended_at=now, prompt_tokens=0, output_tokens=0, finish_reason=ABORTED, receipt={}
            )
        )
        return result.rowcount == 1

    async def find_turn(self, tenant: str, session_id: str, number: int) -> Turn | None:
        """An ended turn, or None."""
        query = select(*_TURN).where(
            _of(tenant, session_id), turns.c.number == number, turns.c.ended_at.is_not(None)
        )
        row = (await self.connection.execute(query)).one_or_none()
        return None if row is None else Turn(**row._mapping)

    async def roll_back(self, tenant: str, session_id: str, after: int) -> None:
        """Take the turns behind number ``after`` out of the session's present history."""
        await self.connection.execute(
            update(turns)
            .where(_of(tenant, session_id), turns.c.number > after)
            .values(rolled_back=True)
        )

    async def page_of_turns(
        self, tenant: str, session_id: str, limit: int, before: int | None
    ) -> list[Turn]:
        """At most ``limit`` ended turns, newest first, numbered below ``before``."""
        query = select(*_TURN).where(_of(tenant, session_id), turns.c.ended_at.is_not(None))
        if before is not None:
            query = query.where(turns.c.number < before)
        query = query.order_by(turns.c.number.desc()).limit(limit)
        return [Turn(**row._mapping) for row in await self.connection.execute(query)]

    async def add_audit(
        self, action: AuditAction, tenant: str, session_id: str, dropped: Dropped, at: datetime
    ) -> None:
        """Store what a drop did; now and then forget the tenant's rows beyond
        ``MAX_AUDIT_ROWS``."""
        added = await self.connection.execute(
            insert(audit).values(
                at=at,
                tenant=tenant,
                session_id=session_id,
                action=action,
                key_destroyed=dropped.key_destroyed,
                chunks=dropped.chunks,
                bytes=dropped.bytes,
            )
        )
        key = added.inserted_primary_key
        if key is not None and key[0] % _TRIM_EVERY:
            return
        surplus = _newest_audit(tenant).with_only_columns(audit.c.id).offset(MAX_AUDIT_ROWS)
        await self.connection.execute(delete(audit).where(audit.c.id.in_(surplus)))

    async def page_of_audit(
        self, tenant: str, limit: int, before: tuple[datetime, int] | None
    ) -> list[AuditRow]:
        """At most ``limit`` of the tenant's audit rows, newest first, older than ``before`` (time
        and id)."""
        query = _newest_audit(tenant).limit(limit)
        if before is not None:
            query = query.where(_older(audit.c.at, audit.c.id, before))
        return [AuditRow(**row._mapping) for row in await self.connection.execute(query)]


def _is(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(sessions.c.tenant == tenant, sessions.c.id == session_id)


def _of(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(turns.c.tenant == tenant, turns.c.session_id == session_id)


def _session(row: Row[Any]) -> Session:
    return Session(**row._mapping)


def _newest_audit(tenant: str) -> Select[Any]:
    newest_first = (audit.c.at.desc(), audit.c.id.desc())
    return select(audit).where(audit.c.tenant == tenant).order_by(*newest_first)


def _older(
    time: Column[datetime], name: Column[Any], place: tuple[datetime, Any]
) -> ColumnElement[bool]:
    # As one comparison of rows: an OR of two would walk the index from its newest end.
    return tuple_(time, name) < place
