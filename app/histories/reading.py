"""Which API's reader reads what; hostile input ends here. Pure."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, TypeVar

from app.histories import chat, messages, responses
from app.sse import EventSplitter, parse_object
from app.wire import Api
from sessions.history.chain import Conversation, Message

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Of an answer that is remembered. A longer one is served like any other."""
MAX_CHOICES: Final = 8

_READERS: dict[Api, ModuleType] = {
    Api.CHAT: chat,
    Api.MESSAGES: messages,
    Api.RESPONSES: responses,
}

T = TypeVar("T")


def read_request(api: Api, body: dict[str, Any]) -> Conversation | None:
    """What was said before this request; None where there are no messages (a completion) or none
    that can be read."""
    reader = _READERS.get(api)
    return None if reader is None else _unless_hostile(lambda: reader.conversation(body))


def read_answer(api: Api, body: dict[str, Any]) -> list[Message]:
    """The message of an answer as its client will send it back, one a choice; none for what cannot
    be read."""
    reader = _READERS.get(api)
    if reader is None:
        return []
    return (_unless_hostile(lambda: reader.answers(body)) or [])[:MAX_CHOICES]


def read_stream(api: Api, chunks: Iterable[bytes]) -> list[Message]:
    """The same of a stream's bytes."""
    reader = _READERS.get(api)
    if reader is None:
        return []
    splitter = EventSplitter()
    events = splitter.feed(b"".join(chunks))
    if api is Api.RESPONSES:
        # The last event repeats all others.
        events = events[-2:]
    parsed = [value for event in events if (value := parse_object(event.data)) is not None]
    return (_unless_hostile(lambda: reader.streamed(parsed)) or [])[:MAX_CHOICES]


def _unless_hostile(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError):
        return None
