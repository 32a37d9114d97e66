"""Named places in a session's history, to which it can be rolled back."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.inserting import insert_new
from sessions.models import checkpoints
from sessions.types import CheckpointExists, TooManyCheckpoints

MAX_CHECKPOINTS: Final = 64
"""Of one session."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The end of a turn, by a name."""

    name: str
    turn: int
    created_at: datetime


class CheckpointRepository:
    """Rows of checkpoints inside one transaction, in which their session is locked."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, tenant: str, session_id: str, checkpoint: Checkpoint) -> None:
        """Store one. Raises CheckpointExists, TooManyCheckpoints."""
        count = select(func.count()).where(_of(tenant, session_id))
        if (await self._connection.execute(count)).scalar_one() >= MAX_CHECKPOINTS:
            raise TooManyCheckpoints(f"A session has at most {MAX_CHECKPOINTS} checkpoints.")
        result = await self._connection.execute(
            insert_new(self._connection, checkpoints).values(
                tenant=tenant,
                session_id=session_id,
                name=checkpoint.name,
                turn=checkpoint.turn,
                created_at=checkpoint.created_at,
            )
        )
        if result.rowcount != 1:
            raise CheckpointExists("The session has a checkpoint of this name.")

    async def all(self, tenant: str, session_id: str) -> list[Checkpoint]:
        """In the order of their turns, and of their making."""
        told = (checkpoints.c.name, checkpoints.c.turn, checkpoints.c.created_at)
        query = select(*told).where(_of(tenant, session_id))
        query = query.order_by(checkpoints.c.turn, checkpoints.c.created_at, checkpoints.c.name)
        found = await self._connection.execute(query)
        return [Checkpoint(row.name, row.turn, row.created_at) for row in found]

    async def remove(self, tenant: str, session_id: str, name: str) -> bool:
        """Whether there was one."""
        result = await self._connection.execute(
            delete(checkpoints).where(_of(tenant, session_id), checkpoints.c.name == name)
        )
        return result.rowcount == 1

    async def remove_behind(self, tenant: str, session_id: str, turn: int) -> int:
        """Remove those of later turns; how many."""
        result = await self._connection.execute(
            delete(checkpoints).where(_of(tenant, session_id), checkpoints.c.turn > turn)
        )
        return result.rowcount


def _of(tenant: str, session_id: str) -> ColumnElement[bool]:
    return and_(checkpoints.c.tenant == tenant, checkpoints.c.session_id == session_id)
