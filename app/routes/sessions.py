"""``/v1/sessions``: sessions as objects of the API. A tenant sees its own and no others."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from app.errors import bad_parameter, problem_of, respond
from app.layer import TENANT
from cache_tiers.hints import SessionKv
from cache_tiers.types import Tier
from sessions.paging import MAX_PAGE, Page
from sessions.service import SessionService
from sessions.types import Session, SessionState, Turn


class _Route(APIRoute):
    """Answers Valet's own errors; the application around it has other ideas of them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                return respond(bad_parameter(str(first["loc"][-1]), first["msg"]))
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    raise
                return respond(problem)

        return answer


class PrefetchRequest(BaseModel):
    """Body of a prefetch."""

    model_config = ConfigDict(extra="forbid")

    tier: Literal["dram", "device"] = "dram"
    deadline_ms: int = Field(default=10_000, ge=1, le=600_000)


def _tenant(request: Request) -> str:
    tenant: str = request.scope[TENANT]
    return tenant


_Tenant = Annotated[str, Depends(_tenant)]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def sessions_router(sessions: SessionService) -> APIRouter:
    """The routes, over one service."""
    router = APIRouter(prefix="/v1/sessions", route_class=_Route, tags=["sessions"])

    @router.get("")
    async def list_sessions(
        tenant: _Tenant,
        state: SessionState | None = None,
        limit: _Limit = 20,
        after: str | None = None,
    ) -> dict[str, Any]:
        return _listing(await sessions.list(tenant, state, limit, after), _session)

    @router.get("/{session_id}")
    async def get_session(tenant: _Tenant, session_id: str) -> dict[str, Any]:
        session = await sessions.get(tenant, session_id)
        return _session(session) | {"kv": _kv(await sessions.kv(tenant, session_id))}

    @router.get("/{session_id}/turns")
    async def list_turns(
        tenant: _Tenant, session_id: str, limit: _Limit = 20, after: str | None = None
    ) -> dict[str, Any]:
        return _listing(await sessions.turns(tenant, session_id, limit, after), _turn)

    @router.post("/{session_id}/park")
    async def park(tenant: _Tenant, session_id: str) -> dict[str, Any]:
        kv = await sessions.park(tenant, session_id)
        return _session(await sessions.get(tenant, session_id)) | {"kv": _kv(kv)}

    @router.post("/{session_id}/prefetch")
    async def prefetch(
        tenant: _Tenant, session_id: str, wish: PrefetchRequest | None = None
    ) -> dict[str, Any]:
        wish = wish or PrefetchRequest()
        done = await sessions.prefetch(tenant, session_id, Tier(wish.tier), wish.deadline_ms)
        session = _session(await sessions.get(tenant, session_id))
        return session | {"prefetched": {"tokens": done.tokens, "complete": done.complete}}

    @router.delete("/{session_id}")
    async def delete(tenant: _Tenant, session_id: str) -> dict[str, Any]:
        dropped = await sessions.delete(tenant, session_id)
        return {
            "id": session_id,
            "object": "session.deleted",
            "deleted": True,
            "freed": {"chunks": dropped.chunks, "bytes": dropped.bytes},
        }

    return router


def _listing(page: Page[Any], describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [describe(item) for item in page.items],
        "has_more": page.next is not None,
        "next": page.next,
    }


def _session(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "object": "session",
        "model": session.model,
        "state": session.state,
        "created_at": int(session.created_at.timestamp()),
        "last_active_at": int(session.last_active_at.timestamp()),
        "turns": session.turns,
        "running_turns": session.running,
        "tokens": session.tokens,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "object": "session.turn",
        "session_id": turn.session_id,
        "turn": turn.number,
        "started_at": turn.started_at.timestamp(),
        "ended_at": turn.ended_at.timestamp(),
        "prompt_tokens": turn.prompt_tokens,
        "output_tokens": turn.output_tokens,
        "finish_reason": turn.finish_reason,
        "kv_receipt": turn.receipt or None,
    }


def _kv(kv: SessionKv) -> dict[str, Any]:
    return {
        "known": kv.known,
        "tokens": kv.tokens,
        "tokens_by_tier": {tier: kv.tokens_by_tier.get(tier, 0) for tier in Tier},
        "bytes_by_tier": {tier: kv.bytes_by_tier.get(tier, 0) for tier in Tier},
        "ssd_complete": kv.ssd_complete,
    }
