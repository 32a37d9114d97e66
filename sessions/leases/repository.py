"""Rows of pins: leases of a session on a tier, which the engine forgets when it restarts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.types import Tier
from sessions.inserting import insert_into
from sessions.models import pins, sessions


@dataclass(frozen=True, slots=True)
class Pin:
    """A claim on a tier, until it ends by itself."""

    tenant: str
    session_id: str
    tier: Tier
    source: str
    """What asked: ``api``, or the field of a request."""
    ttl_s: int
    bytes: int
    """Held when it was last renewed."""
    created_at: datetime
    expires_at: datetime


class PinRepository:
    """Rows of pins inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, pin: Pin) -> None:
        """Store or renew one."""
        statement = insert_into(self._connection, pins).values(asdict(pin))
        new = {name: statement.excluded[name] for name in ("source", "ttl_s", "bytes")}
        new["expires_at"] = statement.excluded.expires_at
        key = ("tenant", "session_id", "tier")
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=key, set_=new)
        )

    async def of_session(self, tenant: str, session_id: str) -> list[Pin]:
        """At most one a tier."""
        query = select(pins).where(pins.c.tenant == tenant, pins.c.session_id == session_id)
        return _pins(await self._connection.execute(query))

    async def remove(self, tenant: str, session_id: str, tiers: Sequence[Tier]) -> list[Tier]:
        """End pins; those that there were."""
        found = [pin.tier for pin in await self.of_session(tenant, session_id) if pin.tier in tiers]
        if found:
            await self._connection.execute(
                delete(pins).where(
                    pins.c.tenant == tenant,
                    pins.c.session_id == session_id,
                    pins.c.tier.in_(found),
                )
            )
        return found

    async def remove_all(self, tenant: str, session_id: str) -> None:
        """End the session's pins, for it has nothing to pin any more."""
        own = and_(pins.c.tenant == tenant, pins.c.session_id == session_id)
        await self._connection.execute(delete(pins).where(own))

    async def earliest_end(self, tenant: str, tier: Tier) -> datetime | None:
        """When the tenant's next pin of the tier ends."""
        query = select(func.min(pins.c.expires_at)).where(
            pins.c.tenant == tenant, pins.c.tier == tier
        )
        earliest: datetime | None = (await self._connection.execute(query)).scalar_one()
        return earliest

    async def youngest(self, tenant: str, tier: Tier, instance: str) -> Pin | None:
        """The tenant's newest pin of the tier among the sessions whose KV is with ``instance``."""
        owner = and_(sessions.c.tenant == pins.c.tenant, sessions.c.id == pins.c.session_id)
        query = (
            select(pins)
            .join(sessions, owner)
            .where(pins.c.tenant == tenant, pins.c.tier == tier, sessions.c.instance == instance)
            .order_by(pins.c.created_at.desc(), pins.c.session_id)
            .limit(1)
        )
        found = _pins(await self._connection.execute(query))
        return found[0] if found else None

    async def take_due(self, now: datetime, limit: int) -> list[Pin]:
        """Remove at most ``limit`` pins whose time is over; which."""
        query = select(pins).where(pins.c.expires_at <= now).order_by(pins.c.expires_at)
        due = _pins(await self._connection.execute(query.limit(limit).with_for_update()))
        for pin in due:
            own = _is(pin.tenant, pin.session_id, pin.tier)
            await self._connection.execute(delete(pins).where(own))
        return due

    async def of_instance(
        self, instance: str, now: datetime, limit: int, after: tuple[str, str, Tier] | None
    ) -> list[Pin]:
        """At most ``limit`` pins that go on, of sessions whose KV is with ``instance``, by name."""
        name = (pins.c.tenant, pins.c.session_id, pins.c.tier)
        owner = and_(sessions.c.tenant == pins.c.tenant, sessions.c.id == pins.c.session_id)
        query = select(pins).join(sessions, owner)
        query = query.where(sessions.c.instance == instance, pins.c.expires_at > now)
        if after is not None:
            query = query.where(tuple_(*name) > after)
        return _pins(await self._connection.execute(query.order_by(*name).limit(limit)))


def _is(tenant: str, session_id: str, tier: Tier) -> ColumnElement[bool]:
    return and_(pins.c.tenant == tenant, pins.c.session_id == session_id, pins.c.tier == tier)


def _pins(rows: Iterable[Row[Any]]) -> list[Pin]:
    return [Pin(**row._mapping) for row in rows]
