"""Pins of ``/v1/sessions``."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.routes.sessions import describe_pin
from app.routes.tenant import Tenant, TenantRoute
from cache_tiers.types import Tier
from sessions.leases.service import LeaseService

TierName = Literal["device", "dram", "ssd"]


class PinRequest(BaseModel):
    """Body of a pin."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tier: TierName = "dram"
    ttl_s: int = Field(ge=1, le=30 * 86_400)


class UnpinRequest(BaseModel):
    """Body of the end of a pin; of all pins without a tier."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tier: TierName | None = None


def leases_router(leases: LeaseService) -> APIRouter:
    """The routes, over one service."""
    router = APIRouter(prefix="/v1/sessions", route_class=TenantRoute, tags=["sessions"])

    @router.post("/{session_id}/pin")
    async def pin(tenant: Tenant, session_id: str, wish: PinRequest) -> dict[str, Any]:
        return describe_pin(await leases.pin(tenant, session_id, Tier(wish.tier), wish.ttl_s))

    @router.post("/{session_id}/unpin")
    async def unpin(
        tenant: Tenant, session_id: str, wish: UnpinRequest | None = None
    ) -> dict[str, Any]:
        tier = Tier(wish.tier) if wish is not None and wish.tier is not None else None
        ended = await leases.unpin(tenant, session_id, tier)
        return {"id": session_id, "object": "session.unpinned", "tiers": ended}

    return router
