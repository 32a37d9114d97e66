"""SQL of tenants and their API keys; one repository lives as long as one transaction."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.models import api_keys, sessions, tenancy, tenants
from sessions.tenancy.quotas import Quotas
from sessions.tenancy.types import ApiKey, Tenant


class TenancyRepository:
    """Rows of tenants and keys, and the number that every change of them counts up."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def version(self) -> int:
        """Another number than before whenever something changed."""
        return int((await self._connection.execute(select(tenancy.c.version))).scalar_one())

    async def change(self) -> None:
        """Something changes in this transaction. Called first, it keeps other changes out until the
        transaction ends."""
        await self._connection.execute(update(tenancy).values(version=tenancy.c.version + 1))

    # --- tenants ---------------------------------------------------------------------------------

    async def tenants(self) -> list[Tenant]:
        """All, by name."""
        found = await self._connection.execute(select(tenants).order_by(tenants.c.name))
        return [_tenant(row) for row in found]

    async def tenant(self, name: str) -> Tenant | None:
        """The tenant of this name, or None."""
        found = await self._connection.execute(select(tenants).where(tenants.c.name == name))
        row = found.one_or_none()
        return None if row is None else _tenant(row)

    async def add_tenant(self, tenant: Tenant) -> None:
        """Store a new one."""
        await self._connection.execute(
            insert(tenants).values(
                name=tenant.name, created_at=tenant.created_at, quotas=tenant.quotas.stored()
            )
        )

    async def set_quotas(self, name: str, quotas: Quotas) -> None:
        """Replace the quotas of one that exists."""
        await self._connection.execute(
            update(tenants).where(tenants.c.name == name).values(quotas=quotas.stored())
        )

    async def count_sessions(self, tenant: str, most: int) -> int:
        """The tenant's sessions; of more than ``most``, as many."""
        some = select(literal(1)).where(sessions.c.tenant == tenant).limit(most).subquery()
        found = await self._connection.execute(select(func.count()).select_from(some))
        return int(found.scalar_one())

    # --- keys ------------------------------------------------------------------------------------

    async def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All, or one tenant's, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        return [_key(row) for row in await self._connection.execute(query)]

    async def key(self, key_id: str) -> ApiKey | None:
        """The key of this id, or None."""
        found = await self._connection.execute(select(api_keys).where(api_keys.c.id == key_id))
        row = found.one_or_none()
        return None if row is None else _key(row)

    async def count_keys(self) -> int:
        """Of whatever state."""
        return int(
            (
                await self._connection.execute(select(func.count()).select_from(api_keys))
            ).scalar_one()
        )

    async def add_key(self, key: ApiKey) -> None:
        """Store a new one; its tenant exists."""
        await self._connection.execute(
            insert(api_keys).values(
                id=key.id,
                tenant=key.tenant,
                label=key.label,
                digest=key.digest,
                created_at=key.created_at,
                expires_at=key.expires_at,
                revoked_at=key.revoked_at,
            )
        )

    async def save_key(self, key: ApiKey) -> None:
        """Store when it expires and that it is revoked."""
        await self._connection.execute(
            update(api_keys)
            .where(api_keys.c.id == key.id)
            .values(expires_at=key.expires_at, revoked_at=key.revoked_at)
        )

    async def forget_keys(self, before: datetime) -> None:
        """Delete what expired or was revoked before then."""
        await self._connection.execute(
            delete(api_keys).where(
                or_(api_keys.c.expires_at < before, api_keys.c.revoked_at < before)
            )
        )


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(row.name, row.created_at, Quotas.read(row.quotas))


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(**row._mapping)
