"""All SQL. Values in, values out; one repository lives as long as one transaction.

Nothing here is particular to one database. A row that will be changed is read with ``lock=True``:
SQLite ignores it, since a transaction there locks everything.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.models import sessions, turns
from sessions.sqlite import insert_new
from sessions.types import ABORTED, BegunTurn, Session, SessionState, Turn

_KEYS_A_QUERY = 500


class SessionRepository:
    """Rows of sessions and turns inside one transaction; see ``Database.transaction`` for errors.

    A session is named by tenant and id; ids may be any text, and one that was never stored is
    simply not found.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, tenant: str, session_id: str, *, lock: bool = False) -> Session | None:
        """The session, or None."""
        query = select(sessions).where(_is(tenant, session_id))
        result = await self._connection.execute(query.with_for_update() if lock else query)
        row = result.one_or_none()
        return None if row is None else _session(row)

    async def add(self, session: Session) -> bool:
        """Store a new session; False when its name is taken, perhaps by a concurrent unit."""
        result = await self._connection.execute(insert_new(sessions).values(asdict(session)))
        return result.rowcount == 1

    async def save(self, session: Session) -> None:
        """Store the session's new values; its row exists and is locked."""
        await self._connection.execute(
            update(sessions).where(_is(session.tenant, session.id)).values(asdict(session))
        )

    async def remove(self, tenant: str, session_id: str) -> None:
        """Delete the session and its turns."""
        await self._connection.execute(delete(sessions).where(_is(tenant, session_id)))

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
            created_at, session_id = after
            query = query.where(
                or_(
                    sessions.c.created_at < created_at,
                    and_(sessions.c.created_at == created_at, sessions.c.id < session_id),
                )
            )
        query = query.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit)
        return [_session(row) for row in await self._connection.execute(query)]

    async def in_states(self, states: Collection[SessionState]) -> list[Session]:
        """Every session of every tenant that is in one of ``states``."""
        query = select(sessions).where(sessions.c.state.in_(states))
        return [_session(row) for row in await self._connection.execute(query)]

    async def find_all(self, names: Sequence[tuple[str, str]]) -> list[Session]:
        """The sessions that exist among ``names`` (tenant, id), in any order."""
        found: list[Session] = []
        for start in range(0, len(names), _KEYS_A_QUERY):
            some = names[start : start + _KEYS_A_QUERY]
            query = select(sessions).where(tuple_(sessions.c.tenant, sessions.c.id).in_(some))
            found += [_session(row) for row in await self._connection.execute(query)]
        return found

    async def add_turn(self, begun: BegunTurn) -> None:
        """Store a running turn."""
        await self._connection.execute(
            insert(turns).values(
                tenant=begun.tenant,
                session_id=begun.session_id,
                number=begun.number,
                started_at=begun.started_at,
            )
        )

    async def end_turn(self, tenant: str, turn: Turn) -> bool:
        """Store how a running turn ended; False when no such turn runs."""
        result = await self._connection.execute(
            update(turns)
            .where(
                _of(tenant, turn.session_id),
                turns.c.number == turn.number,
                turns.c.ended_at.is_(None),
            )
            .values(
                ended_at=turn.ended_at,
                prompt_tokens=turn.prompt_tokens,
                output_tokens=turn.output_tokens,
                finish_reason=turn.finish_reason,
                receipt=turn.receipt,
            )
        )
        return result.rowcount == 1

    async def abort_turns(self, tenant: str, session_id: str, now: datetime) -> None:
        """End all running turns of the session, without an answer."""
        await self._connection.execute(
            update(turns)
            .where(_of(tenant, session_id), turns.c.ended_at.is_(None))
            .values(
                ended_at=now, prompt_tokens=0, output_tokens=0, finish_reason=ABORTED, receipt={}
            )
        )

    async def page_of_turns(
        self, tenant: str, session_id: str, limit: int, before: int | None
    ) -> list[Turn]:
        """At most ``limit`` ended turns, newest first, numbered below ``before``."""
        query = select(*(column for column in turns.c if column is not turns.c.tenant)).where(
            _of(tenant, session_id), turns.c.ended_at.is_not(None)
        )
        if before is not None:
            query = query.where(turns.c.number < before)
        query = query.order_by(turns.c.number.desc()).limit(limit)
        return [Turn(**row._mapping) for row in await self._connection.execute(query)]


def _is(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(sessions.c.tenant == tenant, sessions.c.id == session_id)


def _of(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(turns.c.tenant == tenant, turns.c.session_id == session_id)


def _session(row: Row[Any]) -> Session:
    return Session(**row._mapping)
