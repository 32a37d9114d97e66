"""``/v1/tenant``: what a tenant may use, holds, and did not have to compute."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter

from app.routes.tenant import Tenant, TenantRoute
from app.tenants import Tenants
from cache_tiers.hints import TenantBytes
from cache_tiers.types import Tier
from sessions.ports import KvControl
from sessions.tenancy.quotas import NAMES

MOST_SESSIONS: Final = 100_000
"""How far sessions are counted."""
_FRESH_S: Final = 1.0


def tenant_summary_router(tenants: Tenants, kv: KvControl) -> APIRouter:
    """The route, over what the server knows and what its engine says."""
    router = APIRouter(prefix="/v1/tenant", route_class=TenantRoute, tags=["tenant"])
    usage = _Usage(kv)

    @router.get("")
    async def get_tenant(tenant: Tenant) -> dict[str, Any]:
        limits = tenants.directory.quotas(tenant).limits()
        sessions = await tenants.session_quota.count(tenant, MOST_SESSIONS)
        held = await usage.of(tenant)
        return {
            "object": "tenant",
            "name": tenant,
            "quotas": {name: limits.get(name) for name in NAMES},
            "sessions": sessions,
            "bytes_by_tier": {tier: held.by_tier.get(tier, 0) for tier in Tier},
            "pinned_bytes_by_tier": {tier: held.pinned_by_tier.get(tier, 0) for tier in Tier},
            "served": tenants.meter.of(tenant),
        }

    return router


class _Usage:
    """What tenants hold, asked of the engine once a second at most."""

    def __init__(self, kv: KvControl, clock: Callable[[], float] = time.monotonic) -> None:
        self._kv = kv
        self._clock = clock
        self._asking = asyncio.Lock()
        self._held: dict[str, TenantBytes] = {}
        self._until = 0.0

    async def of(self, tenant: str) -> TenantBytes:
        async with self._asking:
            if self._clock() >= self._until:
                self._held = {held.tenant: held for held in await self._kv.usage()}
                self._until = self._clock() + _FRESH_S
        return self._held.get(tenant) or TenantBytes(tenant, {})
