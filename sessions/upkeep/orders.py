"""What one process wants done with KV that only another one's engine holds.

An order is a row, written in the transaction that makes it necessary, and gone when its process has
carried it out. A process that dies in between finds it again: dropping twice is dropping once.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.identity import session_key
from sessions.models import orders
from sessions.ports import Clock, KvControl
from sessions.types import AuditAction, Session, SessionState
from sessions.units import Units
from sessions.upkeep.placements import forget, holders

DROP: Final = "drop"
_A_ROUND: Final = 64


async def order_drop(
    connection: AsyncConnection, session: Session, now: datetime, but: str | None = None
) -> None:
    """Have every process whose engine may hold KV of the session drop it; ``but`` one that has done
    so already."""
    instances = await holders(connection, session.tenant, session.id) - {but}
    if instances:
        await connection.execute(
            insert(orders),
            [
                {
                    "instance": instance,
                    "tenant": session.tenant,
                    "session_id": session.id,
                    "action": DROP,
                    "created_at": now,
                }
                for instance in sorted(instances)
            ],
        )
    await forget(connection, session.tenant, session.id)


class Orders:
    """The orders to one process."""

    def __init__(self, units: Units, kv: KvControl, clock: Clock, instance: str) -> None:
        self._units = units
        self._kv = kv
        self._clock = clock
        self._instance = instance

    async def carry_out(self) -> int:
        """Do a bounded number of them, the oldest first; how many. Raises what the engine and the
        database raise."""
        query = (
            select(orders)
            .where(orders.c.instance == self._instance)
            .order_by(orders.c.id)
            .limit(_A_ROUND)
        )
        async with self._units.begin() as repo:
            waiting = (await repo.connection.execute(query)).all()
        for order in waiting:
            await self._drop(order.id, order.tenant, order.session_id, order.created_at)
        return len(waiting)

    async def _drop(self, order: int, tenant: str, session_id: str, given_at: datetime) -> None:
        async with self._units.begin() as repo:
            session = await repo.find(tenant, session_id)
        done = delete(orders).where(orders.c.id == order)
        # It may have been used again here since; a new one of its name has nothing of its own yet
        # that is worth keeping what was deleted.
        if (
            session is not None
            and session.created_at <= given_at
            and session.instance == self._instance
            and session.state is not SessionState.EXPIRED
        ):
            async with self._units.begin() as repo:
                await repo.connection.execute(done)
            return
        self._units.on_changed(tenant, session_id)
        dropped = await self._kv.drop(session_key(tenant, session_id))
        async with self._units.begin() as repo:
            await repo.connection.execute(done)
            if dropped.known or dropped.key_destroyed:
                expired = AuditAction.SESSION_EXPIRED
                action = AuditAction.KV_DROPPED if session is None else expired
                await repo.add_audit(action, tenant, session_id, dropped, self._clock())
