"""What a request to the Responses API asks of stored state, and what the engine gets to see. Pure.

Errors::

    BadResponsesRequest    the fields contradict each other, or ask for what is not served
"""

from dataclasses import dataclass
from typing import Any, Final

from app.responses.items import given
from sessions.responses.types import Context, Item

_OURS: Final = ("previous_response_id", "conversation", "background")


class BadResponsesRequest(Exception):
    """The fields contradict each other, or ask for what is not served."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        """The body field."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for."""

    previous_id: str | None
    conversation_id: str | None
    store: bool
    input: tuple[Item, ...]
    """Its own items."""


def parse_wish(body: dict[str, Any]) -> Wish:
    """Raises BadResponsesRequest."""
    previous = body.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise BadResponsesRequest("previous_response_id", "previous_response_id must be a string.")
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if conversation is None:
            raise BadResponsesRequest("conversation", "conversation must have an id.")
    if conversation is not None and not isinstance(conversation, str):
        raise BadResponsesRequest(
            "conversation", "conversation must be an id, or an object that has one."
        )
    if previous is not None and conversation is not None:
        raise BadResponsesRequest(
            "previous_response_id",
            "previous_response_id and conversation cannot be given together.",
        )
    store = body.get("store")
    if store is not None and not isinstance(store, bool):
        raise BadResponsesRequest("store", "store must be true or false.")
    if body.get("background"):
        raise BadResponsesRequest(
            "background", "Responses in the background are not served; stream the answer instead."
        )
    return Wish(previous, conversation, store is not False, given(body.get("input")))


def body_for_engine(
    body: dict[str, Any], context: Context | None, response_id: str
) -> dict[str, Any]:
    """The request with everything in front of it, under the id that the server chose; the engine
    has nothing to look up and nothing to keep."""
    kept = {name: value for name, value in body.items() if name not in _OURS}
    if context is not None:
        own = kept.get("input")
        if isinstance(own, str):
            own = [{"role": "user", "content": own}]
        before = [item.content for item in context.items]
        # What is not a list the engine refuses in its own words.
        kept["input"] = [*before, *own] if isinstance(own, list) else before if own is None else own
    return {**kept, "store": False, "request_id": response_id}
