"""Sessions, turns and the life of a session, as plain values.

::

    idle ──turn──▶ active ──answer──▶ idle ──park──▶ parked ──turn or prefetch──▶ resuming
      ▲                                                                             │
      └──────────────────────────── prefetch done / turn ended ◀────────────────────┘
    idle, parked ──ttl──▶ expired        (a deleted session has no state: its row is gone)

Errors::

    SessionError                  the root
    ├── SessionNotFound           no such session for this tenant (another tenant's included)
    ├── SessionBusy               the operation needs a session with no running turn
    └── IllegalTransition         a bug: a state change that the table does not have
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class SessionError(Exception):
    """A session operation failed."""


class SessionNotFound(SessionError):
    """No such session."""


class SessionBusy(SessionError):
    """The session has a running turn."""


class IllegalTransition(SessionError):
    """A state change that no rule allows."""


class SessionState(StrEnum):
    """What a session is doing."""

    ACTIVE = "active"
    IDLE = "idle"
    PARKED = "parked"
    RESUMING = "resuming"
    EXPIRED = "expired"


LEGAL_TRANSITIONS: frozenset[tuple[SessionState, SessionState]] = frozenset(
    {
        (SessionState.IDLE, SessionState.ACTIVE),
        (SessionState.ACTIVE, SessionState.IDLE),
        (SessionState.IDLE, SessionState.PARKED),
        (SessionState.PARKED, SessionState.RESUMING),
        (SessionState.PARKED, SessionState.ACTIVE),
        (SessionState.RESUMING, SessionState.ACTIVE),
        (SessionState.RESUMING, SessionState.IDLE),
        (SessionState.RESUMING, SessionState.PARKED),
        (SessionState.IDLE, SessionState.EXPIRED),
        (SessionState.PARKED, SessionState.EXPIRED),
        (SessionState.EXPIRED, SessionState.ACTIVE),
    }
)
"""Every allowed change. ``expired → active``: an expired session's KV is gone but its identity is
not; its next turn is computed from nothing and says so."""


def check_transition(old: SessionState, new: SessionState) -> None:
    """Raises IllegalTransition unless ``old → new`` is allowed. A change to itself is none."""
    if old is not new and (old, new) not in LEGAL_TRANSITIONS:
        raise IllegalTransition(f"{old} → {new}")


@dataclass(frozen=True, slots=True)
class Session:
    """One agent's conversation."""

    id: str
    tenant: str
    model: str
    state: SessionState
    created_at: datetime
    last_active_at: datetime
    turns: int
    """Turns ended so far; the next one has this number plus one."""
    tokens: int
    """Prompt and output tokens of the last turn: the length of the conversation."""
    fingerprint: str
    """Of the engine that served the last turn; empty before the first."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session and its answer."""

    session_id: str
    number: int
    """From 1."""
    started_at: datetime
    ended_at: datetime
    prompt_tokens: int
    output_tokens: int
    finish_reason: str | None
    receipt: dict[str, Any]
    """As sent to the client: DESIGN's JSON."""
