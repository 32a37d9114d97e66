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
    ├── SessionExists             the id for a new session is taken
    ├── TurnNotFound              the session's present history has no such answered turn
    ├── CheckpointNotFound        no checkpoint of this name
    ├── CheckpointExists          the name is taken
    ├── TooManyCheckpoints        the session has as many as it may have
    ├── PinRefused                a tier has no room for the lease, or the tenant's share is used up
    ├── NoSuchTier                this server has no such tier
    ├── InvalidSessionId          the client chose an id that cannot name a session
    ├── InvalidCursor             a page was asked for with a cursor that no page gave
    ├── StateUnavailable          the database failed; the request can be served without a session
    │   └── OutcomeUnknown        it failed while it committed: what was to be stored may be stored
    └── IllegalTransition         a bug: a state change that the table does not have
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class SessionError(Exception):
    """A session operation failed."""


class SessionNotFound(SessionError):
    """No such session."""


class SessionBusy(SessionError):
    """The session has a running turn."""


class SessionExists(SessionError):
    """The id for a new session is taken."""


class TurnNotFound(SessionError):
    """The session's present history has no such answered turn."""


class CheckpointNotFound(SessionError):
    """No checkpoint of this name."""


class CheckpointExists(SessionError):
    """The name is taken."""


class TooManyCheckpoints(SessionError):
    """The session has as many checkpoints as it may have."""


class PinRefused(SessionError):
    """A tier has no room for the lease, or the tenant's share of it is used up."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Until one of the tenant's leases ends."""


class NoSuchTier(SessionError):
    """This server has no such tier."""


class InvalidSessionId(SessionError):
    """The session id cannot be used; the message says what an id looks like."""


class InvalidCursor(SessionError):
    """The cursor is not one that a page gave."""


class StateUnavailable(SessionError):
    """The session database cannot be used now."""


class OutcomeUnknown(StateUnavailable):
    """The session database failed while it committed: all of it is stored, or nothing."""


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
    parent_id: str | None = None
    """The session that this one was forked from, which may be gone; None for one of its own."""
    parent_turn: int | None = None
    """The last turn of the parent that the fork has in common with it."""
    head_turn: int = 0
    """The turn whose end is the conversation's present: the last answered one, or the one that a
    rollback went back to. 0 before the first."""
    instance: str = ""
    """The API process whose engine served the last turn; empty before the first."""
    base_tokens: int = 0
    """Tokens of the conversation in front of turn 1: what a fork began with."""
    ttl_s: int | None = None
    """Seconds without a turn after which the session expires; None for the installation's."""
    expires_at: datetime | None = None
    """When it expires; of an expired session, when it is forgotten. None for never."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The client's own notes."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a fork comes from."""

    parent_id: str
    parent_turn: int
    """The last turn that both have; 0 for what the parent itself began with."""
    tokens: int
    """Of the conversation up to there."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long sessions are kept, where they do not say so themselves. Seconds; None for ever."""

    ttl_s: int | None = None
    """Without a turn, until a session expires."""
    retention_s: int | None = None
    """From then on, until it is forgotten."""


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """A running turn: what ``begin_turn`` gives and ``end_turn`` takes."""

    tenant: str
    session_id: str
    number: int
    """From 1, without gaps; no other turn of the session has it."""
    started_at: datetime
    instance: str
    """The API process that serves it."""
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
    rolled_back: bool = False
    """Whether a rollback took it out of the session's present history."""


class PointKind(StrEnum):
    """What a point of a history is the hash of."""

    ANSWERED = "answered"
    """All messages up to and with a turn's answer, chained."""
    ASKED = "asked"
    """All messages of a turn's request, chained."""
    ANSWER = "answer"
    """A turn's answer alone, where it is distinctive enough to know a session by."""


class AuditAction(StrEnum):
    """What dropped a session's KV."""

    SESSION_DELETED = "session_deleted"
    """A deletion: the session and its turns are gone too."""
    SESSION_EXPIRED = "session_expired"
    """Its time to live: KV alone."""
    SESSION_REMOVED = "session_removed"
    """Its retention: an expired session and its turns are gone."""
    KV_DROPPED = "kv_dropped"
    """KV alone: of a session that the database did not have, or in which a turn began while it was
    being deleted."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One deletion as it is remembered; it outlives the session."""

    id: int
    """Grows by the order of storing, over all tenants."""
    at: datetime
    tenant: str
    """Empty for KV under a name that no tenant's session can have."""
    session_id: str
    action: AuditAction
    key_destroyed: bool
    """Whether the session's encryption key existed and was destroyed: what no other session holds
    cannot be read any more, wherever a copy of its bytes may be."""
    chunks: int
    """Freed; those that other sessions hold are not among them."""
    bytes: int
