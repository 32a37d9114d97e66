"""Which processes' engines may hold KV of a session, besides the one in the session's own row."""

from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.inserting import insert_new
from sessions.models import placements, sessions
from sessions.types import BegunTurn


async def place(connection: AsyncConnection, begun: BegunTurn) -> None:
    """Remember where the session was before this turn. Call it in the transaction that begins the
    turn."""
    if begun.previous is None or begun.previous.instance == begun.instance:
        return
    name = {"tenant": begun.tenant, "session_id": begun.session_id}
    if begun.previous.instance:
        before = insert_new(connection, placements).values(**name, instance=begun.previous.instance)
        await connection.execute(before)
    await connection.execute(
        delete(placements).where(
            _of(begun.tenant, begun.session_id), placements.c.instance == begun.instance
        )
    )


async def holders(connection: AsyncConnection, tenant: str, session_id: str) -> set[str]:
    """Every process whose engine may hold KV of the session."""
    row = select(sessions.c.instance).where(
        sessions.c.tenant == tenant, sessions.c.id == session_id, sessions.c.instance != ""
    )
    others = select(placements.c.instance).where(_of(tenant, session_id))
    return set((await connection.execute(row.union(others))).scalars())


async def forget(connection: AsyncConnection, tenant: str, session_id: str) -> None:
    """Nobody but the one in the session's row holds any."""
    await connection.execute(delete(placements).where(_of(tenant, session_id)))


def _of(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(placements.c.tenant == tenant, placements.c.session_id == session_id)
