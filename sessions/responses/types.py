"""Stored responses and conversations, as plain values.

Errors::

    SessionError (sessions.types)
    ├── ResponseNotFound          no such response for this tenant: unknown, deleted or expired
    ├── ConversationNotFound      the same of a conversation
    ├── ItemNotFound              the conversation has no such item
    └── ContextTooLong            more in front of a request than one may continue
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sessions.types import SessionError

MAX_CHAIN = 1024
"""Responses that continue one another in a row."""

MAX_ITEMS = 20_000
"""Items of one conversation."""

MAX_CONTEXT_BYTES = 32 * 1024**2
"""Of items, as JSON, that one request continues."""

CONVERSATION_BYTES = 512
"""What a conversation counts beside its items and metadata: about what its row takes."""

MAX_RESPONSE_BYTES = 16 * 1024**2
"""Of one stored response, as JSON; a larger one is not stored."""


_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


def is_name(text: str) -> bool:
    """Whether ``text`` can be the id of a response, a conversation or an item. Of anything else
    there is none, and a database may not even take it."""
    return _NAME.fullmatch(text) is not None


class ResponseNotFound(SessionError):
    """No such response."""


class ConversationNotFound(SessionError):
    """No such conversation."""


class ItemNotFound(SessionError):
    """No such item."""


class ContextTooLong(SessionError):
    """There is more in front of the request than one may continue."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an input or an output."""

    id: str
    """As listings name it; the server's own for what a client sent."""
    content: dict[str, Any]
    """As the client sent it or the engine gave it: what the engine reads again, word for word."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is in front of a request that continues something, and where it was said."""

    items: tuple[Item, ...]
    session_id: str
    turn: int | None = None
    """The session's turn that ended with it; None for a conversation, which has one present."""
    thread: str | None = None
    """Of the response that is continued."""
    position: int = 0
    """Of a conversation: its items stand below this position."""


@dataclass(frozen=True, slots=True)
class NewResponse:
    """An answered request, to be stored."""

    id: str
    session_id: str
    turn: int
    answer: dict[str, Any]
    """The response object without its output."""
    input: tuple[Item, ...]
    """This request's own."""
    output: tuple[Item, ...]
    previous_id: str | None = None
    thread: str | None = None
    """Of the previous response."""
    conversation_id: str | None = None
    position: int = 0
    """Of the conversation when the request read it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of items that requests read and add to."""

    id: str
    session_id: str
    """The session whose turns its requests are."""
    created_at: datetime
    metadata: dict[str, str] = field(default_factory=dict)
