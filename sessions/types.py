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
    ├── InvalidSessionId          the client chose an id that cannot name a session
    ├── InvalidCursor             a page was asked for with a cursor that no page gave
    ├── StateUnavailable          the database failed; the request can be served without a session
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


class InvalidSessionId(SessionError):
    """The session id cannot be used; the message says what an id looks like."""


class InvalidCursor(SessionError):
    """The cursor is not one that a page gave."""


class StateUnavailable(SessionError):
    """The session database cannot be used now."""


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
    """Turns ended so far, aborted ones included."""
    tokens: int
    """Prompt and output tokens of the last answered turn: the length of the conversation."""
    fingerprint: str
    """Of the engine that served the last answered turn; empty before the first."""
    running: int
    """Turns that began and have not ended; the next turn's number is ``turns + running + 1``.
    Above zero exactly while the session is active."""


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """A running turn: what ``begin_turn`` gives and ``end_turn`` takes."""

    tenant: str
    session_id: str
    number: int
    """From 1, without gaps; no other turn of the session has it."""
    started_at: datetime
    previous: Session | None
    """The session as the turn found it; None when the turn created it."""

    @property
    def is_new(self) -> bool:
        """Whether this turn created its session."""
        return self.previous is None


ABORTED = "abort"
"""The finish reason of a turn that ended without an answer: the client left, the engine failed, or
the process died."""


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
    """As the engine said it; ``ABORTED`` when the turn has no answer."""
    receipt: dict[str, Any]
    """As sent to the client; empty when the turn was aborted."""
