"""What clients say of gaps, in ``/v1/sessions``."""

from typing import Any, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.expectation import MAX_EXPECTED_S, MAX_TOOL
from app.gaps import Gaps
from app.routes.sessions import describe_next_turn
from app.routes.tenant import Tenant, TenantRoute
from sessions.identity import session_key
from sessions.service import SessionService


class ExpectRequest(BaseModel):
    """Body of an expectation: at least one of its fields. ``in_s`` is from now on; 0 is at once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    in_s: float | None = Field(default=None, ge=0, le=MAX_EXPECTED_S, allow_inf_nan=False)
    tool: str | None = Field(default=None, min_length=1, max_length=MAX_TOOL)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.in_s is None and self.tool is None:
            raise ValueError("in_s, tool or both are needed")
        return self


def gaps_router(sessions: SessionService, gaps: Gaps) -> APIRouter:
    """The routes, over their services."""
    router = APIRouter(prefix="/v1/sessions", route_class=TenantRoute, tags=["sessions"])

    @router.post("/{session_id}/expect")
    async def expect(tenant: Tenant, session_id: str, said: ExpectRequest) -> dict[str, Any]:
        await sessions.get(tenant, session_id)
        await gaps.expect(session_key(tenant, session_id), said.in_s, said.tool or "")
        kv = await sessions.kv(tenant, session_id)
        return {
            "id": session_id,
            "object": "session.expected",
            "next_turn": describe_next_turn(kv),
        }

    return router
