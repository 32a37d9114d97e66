"""What an operator does with tenants and keys: in the database, while servers run on it.

A running server follows by itself; see ``directory.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from sessions.database import Database
from sessions.ports import Clock
from sessions.tenancy.keys import NewKey, new_key
from sessions.tenancy.quotas import Quotas
from sessions.tenancy.repository import TenancyRepository
from sessions.tenancy.types import (
    ApiKey,
    KeyState,
    Tenant,
    TooMany,
    UnknownKey,
    UnknownTenant,
    check_tenant_name,
)

MAX_KEYS: Final = 10_000
"""Of an installation, whatever their state: a server has all of them in memory."""
MAX_TENANTS: Final = 10_000
MAX_LABEL: Final = 200
"""Characters."""
REMEMBERED: Final = timedelta(days=90)
"""How long a key is listed after it expired or was revoked."""


class Tenancy:
    """Tenants and keys of one installation. Every method may raise StateUnavailable."""

    def __init__(
        self, database: Database, clock: Clock, make_key: Callable[[], NewKey] = new_key
    ) -> None:
        self._database = database
        self._clock = clock
        self._make_key = make_key

    async def add_key(self, tenant: str, label: str, life: timedelta | None) -> NewKey:
        """A new key of ``tenant``, which is made when there is none of that name. The key is valid
        for ``life``, or until it is revoked. Raises BadTenantName, TooMany."""
        check_tenant_name(tenant)
        key = self._make_key()
        async with self._database.begin() as connection:
            repo = TenancyRepository(connection)
            await repo.change()
            await self._ensure_tenant(repo, tenant)
            await self._add(repo, key, tenant, label, life)
        return key

    async def rotate_key(self, key_id: str, overlap: timedelta) -> NewKey:
        """A new key in the place of a valid one: of its tenant, with its label, and for as long a
        life as it was given. Until ``overlap`` is over, or its own end if that is earlier, the old
        one is valid too. Raises UnknownKey, TooMany."""
        key = self._make_key()
        async with self._database.begin() as connection:
            repo = TenancyRepository(connection)
            await repo.change()
            now = self._clock()
            old = await _valid(repo, key_id, now)
            life = None if old.expires_at is None else old.expires_at - old.created_at
            end = now + overlap
            if old.expires_at is not None:
                end = min(end, old.expires_at)
            await repo.save_key(replace(old, expires_at=end))
            await self._add(repo, key, old.tenant, old.label, life)
        return key

    async def revoke_key(self, key_id: str) -> ApiKey:
        """No server that knows of it accepts the key any more. Again, it changes nothing. Raises
        UnknownKey."""
        async with self._database.begin() as connection:
            repo = TenancyRepository(connection)
            await repo.change()
            key = await repo.key(key_id)
            if key is None:
                raise UnknownKey(f"there is no key {key_id}")
            if key.revoked_at is None:
                key = replace(key, revoked_at=self._clock())
                await repo.save_key(key)
        return key

    async def keys(self, tenant: str | None = None) -> list[tuple[ApiKey, KeyState]]:
        """Keys and what they are good for now, oldest first."""
        async with self._database.begin() as connection:
            found = await TenancyRepository(connection).keys(tenant)
        now = self._clock()
        return [(key, key.state(now)) for key in found]

    async def set_quotas(self, tenant: str, changes: Mapping[str, int | None]) -> Tenant:
        """Change some quotas of a tenant, by their names; None leaves one to the installation. The
        tenant is made when there is none of that name. Raises BadTenantName, TooMany."""
        check_tenant_name(tenant)
        async with self._database.begin() as connection:
            repo = TenancyRepository(connection)
            await repo.change()
            known = await self._ensure_tenant(repo, tenant)
            changed = replace(known, quotas=replace(known.quotas, **changes))
            await repo.set_quotas(tenant, changed.quotas)
        return changed

    async def tenant(self, name: str) -> Tenant:
        """One tenant. Raises UnknownTenant."""
        async with self._database.begin() as connection:
            found = await TenancyRepository(connection).tenant(name)
        if found is None:
            raise UnknownTenant(f"there is no tenant {name}")
        return found

    async def tenants(self) -> list[Tenant]:
        """All, by name."""
        async with self._database.begin() as connection:
            return await TenancyRepository(connection).tenants()

    async def _ensure_tenant(self, repo: TenancyRepository, name: str) -> Tenant:
        known = await repo.tenant(name)
        if known is not None:
            return known
        if len(await repo.tenants()) >= MAX_TENANTS:
            raise TooMany(f"there are {MAX_TENANTS} tenants already")
        made = Tenant(name, self._clock(), Quotas())
        await repo.add_tenant(made)
        return made

    async def _add(
        self,
        repo: TenancyRepository,
        key: NewKey,
        tenant: str,
        label: str,
        life: timedelta | None,
    ) -> None:
        now = self._clock()
        # Never the last row: one is added below, and where there was a key, keys are asked for.
        await repo.forget_keys(now - REMEMBERED)
        if await repo.count_keys() >= MAX_KEYS:
            raise TooMany(f"there are {MAX_KEYS} keys already; revoked ones are kept for 90 days")
        await repo.add_key(
            ApiKey(
                id=key.id,
                tenant=tenant,
                label=label[:MAX_LABEL],
                digest=key.digest,
                created_at=now,
                expires_at=None if life is None else now + life,
            )
        )


async def _valid(repo: TenancyRepository, key_id: str, now: datetime) -> ApiKey:
    key = await repo.key(key_id)
    if key is None:
        raise UnknownKey(f"there is no key {key_id}")
    if (state := key.state(now)) is not KeyState.VALID:
        raise UnknownKey(f"key {key_id} is {state}: add a new one")
    return key
