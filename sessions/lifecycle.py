"""How a session changes: pure functions from a session to the session that follows it.

Every change of state in Valet is made here, through ``check_transition``.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from cache_tiers.hints import SessionKv
from cache_tiers.types import Tier
from sessions.types import Lineage, Session, SessionState, Terms, Turn, check_transition


def created(
    tenant: str, session_id: str, model: str, now: datetime, lineage: Lineage | None = None
) -> Session:
    """A session before its first turn; with a lineage, a fork."""
    return Session(
        id=session_id,
        tenant=tenant,
        model=model,
        state=SessionState.IDLE,
        created_at=now,
        last_active_at=now,
        turns=0,
        tokens=lineage.tokens if lineage else 0,
        fingerprint="",
        running=0,
        parent_id=lineage.parent_id if lineage else None,
        parent_turn=lineage.parent_turn if lineage else None,
        base_tokens=lineage.tokens if lineage else 0,
    )


def moved(session: Session, state: SessionState) -> Session:
    """The session in another state. Raises IllegalTransition."""
    check_transition(session.state, state)
    return replace(session, state=state)


def kept(session: Session, terms: Terms) -> Session:
    """The session with the time that it expires at, counted from its last activity."""
    ttl_s = terms.ttl_s if session.ttl_s is None else session.ttl_s
    return replace(session, expires_at=_later(session.last_active_at, ttl_s))


def expired(session: Session, terms: Terms, now: datetime) -> Session:
    """An idle or parked session whose time is over. Raises IllegalTransition."""
    after = moved(session, SessionState.EXPIRED)
    return replace(after, expires_at=_later(now, terms.retention_s))


def turn_begun(session: Session, model: str, instance: str, now: datetime) -> Session:
    """One more turn runs, served by ``instance``."""
    return replace(
        moved(session, SessionState.ACTIVE),
        model=model,
        instance=instance,
        last_active_at=now,
        running=session.running + 1,
    )


def turn_ended(session: Session, turn: Turn, fingerprint: str) -> Session:
    """One running turn less; idle when it was the last.

    A turn without a receipt says nothing of the conversation's length.
    """
    after = replace(
        session,
        last_active_at=max(session.last_active_at, turn.ended_at),
        turns=session.turns + 1,
        running=session.running - 1,
    )
    if turn.receipt:
        tokens = turn.prompt_tokens + turn.output_tokens
        after = replace(after, tokens=tokens, fingerprint=fingerprint, head_turn=turn.number)
    return after if after.running else moved(after, SessionState.IDLE)


def interrupted(session: Session, ended: int) -> Session:
    """The session after a process has died that ran ``ended`` of its turns; idle when no other
    process runs one."""
    after = replace(session, turns=session.turns + ended, running=session.running - ended)
    return after if after.running else moved(after, SessionState.IDLE)


def rested(session: Session, kv: SessionKv | None) -> Session:
    """An idle or resuming session in the state that its KV is in.

    All of it below DRAM: parked. Some of it above, or none anywhere: idle. A session without KV
    keeps its identity, and its next turn is computed from nothing.
    """
    parked = kv is not None and _only_on_ssd(kv)
    return moved(session, SessionState.PARKED if parked else SessionState.IDLE)


def _only_on_ssd(kv: SessionKv) -> bool:
    tokens = kv.tokens_by_tier
    above = tokens.get(Tier.DEVICE, 0) + tokens.get(Tier.DRAM, 0)
    return above == 0 and tokens.get(Tier.SSD, 0) > 0


def _later(time: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else time + timedelta(seconds=seconds)
