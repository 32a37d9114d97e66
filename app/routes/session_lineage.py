"""Forks, checkpoints and rollbacks of ``/v1/sessions``."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.routes.sessions import describe_session
from app.routes.tenant import Limit, Tenant, TenantRoute, listing
from sessions.checkpoints import Checkpoint
from sessions.lineage import LineageService
from sessions.service import SessionService
from sessions.tenancy.session_quota import SessionQuota

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
CheckpointName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ForkRequest(_Body):
    """Body of a fork."""

    turn: Number | None = None
    id: str | None = None


class CheckpointRequest(_Body):
    """Body of a checkpoint."""

    name: CheckpointName
    turn: Number | None = None


class RollbackRequest(_Body):
    """Body of a rollback: to a turn or to a checkpoint."""

    turn: Number | None = None
    checkpoint: CheckpointName | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> "RollbackRequest":
        """Raises ValueError unless exactly one place is named."""
        if (self.turn is None) == (self.checkpoint is None):
            raise ValueError("give either turn or checkpoint")
        return self


def lineage_router(
    sessions: SessionService, lineage: LineageService, quota: SessionQuota
) -> APIRouter:
    """The routes, over their services."""
    router = APIRouter(prefix="/v1/sessions", route_class=TenantRoute, tags=["sessions"])

    @router.post("/{session_id}/fork", status_code=201)
    async def fork(
        tenant: Tenant, session_id: str, wish: ForkRequest | None = None
    ) -> dict[str, Any]:
        wish = wish or ForkRequest()
        await quota.check(tenant)
        forked = await lineage.fork(tenant, session_id, wish.turn, wish.id)
        return describe_session(forked.session) | {"shared_tokens": forked.shared_tokens}

    @router.get("/{session_id}/forks")
    async def list_forks(
        tenant: Tenant, session_id: str, limit: Limit = 20, after: str | None = None
    ) -> dict[str, Any]:
        return listing(await sessions.children(tenant, session_id, limit, after), describe_session)

    @router.post("/{session_id}/rollback")
    async def rollback(tenant: Tenant, session_id: str, to: RollbackRequest) -> dict[str, Any]:
        session = await lineage.rollback(
            tenant, session_id, turn=to.turn or 0, checkpoint=to.checkpoint
        )
        return describe_session(session)

    @router.post("/{session_id}/checkpoints", status_code=201)
    async def add_checkpoint(
        tenant: Tenant, session_id: str, wish: CheckpointRequest
    ) -> dict[str, Any]:
        made = await lineage.add_checkpoint(tenant, session_id, wish.name, wish.turn)
        return _checkpoint(session_id, made)

    @router.get("/{session_id}/checkpoints")
    async def list_checkpoints(tenant: Tenant, session_id: str) -> dict[str, Any]:
        marks = await lineage.checkpoints(tenant, session_id)
        data = [_checkpoint(session_id, mark) for mark in marks]
        return {"object": "list", "data": data, "has_more": False, "next": None}

    @router.delete("/{session_id}/checkpoints/{name}")
    async def remove_checkpoint(tenant: Tenant, session_id: str, name: str) -> dict[str, Any]:
        await lineage.remove_checkpoint(tenant, session_id, name)
        return {"name": name, "object": "session.checkpoint.deleted", "deleted": True}

    return router


def _checkpoint(session_id: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "object": "session.checkpoint",
        "session_id": session_id,
        "name": checkpoint.name,
        "turn": checkpoint.turn,
        "created_at": int(checkpoint.created_at.timestamp()),
    }
