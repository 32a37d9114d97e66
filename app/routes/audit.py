"""``/v1/audit``: what was deleted, and that it cannot be read any more. A tenant sees its own."""

from typing import Any

from fastapi import APIRouter

from app.routes.tenant import Limit, Tenant, TenantRoute, listing
from sessions.service import SessionService
from sessions.types import AuditRow


def audit_router(sessions: SessionService) -> APIRouter:
    """The route, over one service."""
    router = APIRouter(prefix="/v1/audit", route_class=TenantRoute, tags=["audit"])

    @router.get("")
    async def list_audit(
        tenant: Tenant, limit: Limit = 20, after: str | None = None
    ) -> dict[str, Any]:
        return listing(await sessions.audit(tenant, limit, after), _row)

    return router


def _row(row: AuditRow) -> dict[str, Any]:
    return {
        "object": "audit",
        "at": row.at.timestamp(),
        "session_id": row.session_id,
        "action": row.action,
        "key_destroyed": row.key_destroyed,
        "freed": {"chunks": row.chunks, "bytes": row.bytes},
    }
