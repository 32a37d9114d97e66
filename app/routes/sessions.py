"""``/v1/sessions``: sessions as objects of the API. A tenant sees its own and no others."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.routes.tenant import Limit, Tenant, TenantRoute, listing
from cache_tiers.hints import SessionKv
from cache_tiers.types import Tier
from sessions.leases.repository import Pin
from sessions.leases.service import LeaseService
from sessions.lineage import LineageService
from sessions.service import SessionService
from sessions.types import Session, SessionState, Turn
from sessions.upkeep.events import Event

MAX_TTL_S: Final = 10 * 365 * 86_400

MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class PrefetchRequest(BaseModel):
    """Body of a prefetch."""

    model_config = ConfigDict(extra="forbid")

    tier: Literal["dram", "device"] = "dram"
    deadline_ms: int = Field(default=10_000, ge=1, le=600_000)


class SessionChanges(BaseModel):
    """Body of a change; a field that is absent stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ttl_s: int | None = Field(default=None, ge=60, le=MAX_TTL_S)
    metadata: dict[MetadataKey, MetadataValue] = Field(default_factory=dict, max_length=16)


def sessions_router(
    sessions: SessionService, lineage: LineageService, leases: LeaseService
) -> APIRouter:
    """The routes, over their services."""
    router = APIRouter(prefix="/v1/sessions", route_class=TenantRoute, tags=["sessions"])

    @router.get("")
    async def list_sessions(
        tenant: Tenant,
        state: SessionState | None = None,
        limit: Limit = 20,
        after: str | None = None,
    ) -> dict[str, Any]:
        return listing(await sessions.list(tenant, state, limit, after), describe_session)

    @router.get("/{session_id}")
    async def get_session(tenant: Tenant, session_id: str) -> dict[str, Any]:
        session = await sessions.get(tenant, session_id)
        kv = await sessions.kv(tenant, session_id)
        return describe_session(session) | {
            "children": await lineage.count_children(tenant, session_id),
            "pins": [describe_pin(pin) for pin in await leases.pins(tenant, session_id)],
            "kv": describe_kv(kv),
            "next_turn": describe_next_turn(kv),
        }

    @router.patch("/{session_id}")
    async def change_session(
        tenant: Tenant, session_id: str, changes: SessionChanges
    ) -> dict[str, Any]:
        wanted = changes.model_dump(include=changes.model_fields_set)
        return describe_session(await sessions.update(tenant, session_id, wanted))

    @router.get("/{session_id}/turns")
    async def list_turns(
        tenant: Tenant, session_id: str, limit: Limit = 20, after: str | None = None
    ) -> dict[str, Any]:
        return listing(await sessions.turns(tenant, session_id, limit, after), _turn)

    @router.get("/{session_id}/events")
    async def list_events(
        tenant: Tenant, session_id: str, limit: Limit = 20, after: str | None = None
    ) -> dict[str, Any]:
        return listing(await sessions.events(tenant, session_id, limit, after), _event)

    @router.post("/{session_id}/park")
    async def park(tenant: Tenant, session_id: str) -> dict[str, Any]:
        kv = await sessions.park(tenant, session_id)
        session = await sessions.get(tenant, session_id)
        return describe_session(session) | {"kv": describe_kv(kv)}

    @router.post("/{session_id}/prefetch")
    async def prefetch(
        tenant: Tenant, session_id: str, wish: PrefetchRequest | None = None
    ) -> dict[str, Any]:
        wish = wish or PrefetchRequest()
        done = await sessions.prefetch(tenant, session_id, Tier(wish.tier), wish.deadline_ms)
        session = describe_session(await sessions.get(tenant, session_id))
        return session | {"prefetched": {"tokens": done.tokens, "complete": done.complete}}

    @router.delete("/{session_id}")
    async def delete(tenant: Tenant, session_id: str) -> dict[str, Any]:
        dropped = await sessions.delete(tenant, session_id)
        return {
            "id": session_id,
            "object": "session.deleted",
            "deleted": True,
            "key_destroyed": dropped.key_destroyed,
            "freed": {"chunks": dropped.chunks, "bytes": dropped.bytes},
        }

    return router


def describe_session(session: Session) -> dict[str, Any]:
    """A session as the API gives it."""
    expired = session.state is SessionState.EXPIRED
    parent = {"id": session.parent_id, "turn": session.parent_turn}
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
        "head_turn": session.head_turn,
        "parent": parent if session.parent_id is not None else None,
        "ttl_s": session.ttl_s,
        "expires_at": None if expired else _seconds(session.expires_at),
        "removed_at": _seconds(session.expires_at) if expired else None,
        "metadata": session.metadata,
    }


def describe_pin(pin: Pin) -> dict[str, Any]:
    """A pin as the API gives it."""
    return {
        "object": "session.pin",
        "session_id": pin.session_id,
        "tier": pin.tier,
        "ttl_s": pin.ttl_s,
        "source": pin.source,
        "bytes": pin.bytes,
        "created_at": int(pin.created_at.timestamp()),
        "expires_at": int(pin.expires_at.timestamp()),
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "object": "session.event",
        "at": event.at.timestamp(),
        "kind": event.kind,
        "details": event.details,
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
        "rolled_back": turn.rolled_back,
    }


def describe_kv(kv: SessionKv) -> dict[str, Any]:
    """Where a session's KV is, as the API gives it."""
    return {
        "known": kv.known,
        "tokens": kv.tokens,
        "tokens_by_tier": {tier: kv.tokens_by_tier.get(tier, 0) for tier in Tier},
        "bytes_by_tier": {tier: kv.bytes_by_tier.get(tier, 0) for tier in Tier},
        "ssd_complete": kv.ssd_complete,
    }


def describe_next_turn(kv: SessionKv) -> dict[str, Any] | None:
    """When the session is expected back, as the API gives it; None for one that is not away."""
    if kv.back_in_s is None:
        return None
    by_s = None if kv.back_by_s is None else round(kv.back_by_s, 1)
    return {"expected_in_s": round(kv.back_in_s, 1), "by_s": by_s}


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
