"""How a session changes: pure functions from a session to the session that follows it.

Every change of state in Valet is made here, through ``check_transition``.
"""

from dataclasses import replace
from datetime import datetime

from cache_tiers.hints import SessionKv
from cache_tiers.types import Tier
from sessions.types import Session, SessionState, Turn, check_transition


def created(tenant: str, session_id: str, model: str, now: datetime) -> Session:
    """A session before its first turn."""
    return Session(
        id=session_id,
        tenant=tenant,
        model=model,
        state=SessionState.IDLE,
        created_at=now,
        last_active_at=now,
        turns=0,
        tokens=0,
        fingerprint="",
        running=0,
    )


def moved(session: Session, state: SessionState) -> Session:
    """The session in another state. Raises IllegalTransition."""
    check_transition(session.state, state)
    return replace(session, state=state)


def turn_begun(session: Session, model: str, now: datetime) -> Session:
    """One more turn runs."""
    return replace(
        moved(session, SessionState.ACTIVE),
        model=model,
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
        after = replace(after, tokens=tokens, fingerprint=fingerprint)
    return after if after.running else moved(after, SessionState.IDLE)


def interrupted(session: Session) -> Session:
    """The session after the process that ran its turns has died: they have all ended."""
    after = replace(session, turns=session.turns + session.running, running=0)
    return moved(after, SessionState.IDLE) if session.state is SessionState.ACTIVE else after


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
