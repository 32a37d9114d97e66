"""Items of the Responses API: as clients send them and as listings show them. Pure."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sessions.responses.types import Item

_PREFIXES: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_ROLES: Final = ("user", "assistant", "system", "developer")
_DONE: Final = ("message", "function_call", "function_call_output")
"""Types that have a status, which clients may leave out."""


def sent(content: dict[str, Any]) -> Item:
    """An item that a client sent: kept as it is, and named by the server, whatever it named it."""
    return Item(f"{_PREFIXES.get(_type(content), 'item')}_{secrets.token_hex(16)}", content)


def given(value: Any) -> tuple[Item, ...]:
    """The items of a request's ``input``, a text or a list; what is no item is left out, since the
    engine refuses the request for it."""
    if isinstance(value, str):
        return (sent({"role": "user", "content": value}),)
    items = value if isinstance(value, list) else []
    return tuple(sent(content) for content in items if isinstance(content, dict))


def said(output: Any) -> tuple[Item, ...]:
    """The items of an answer's ``output``. One that the engine did not name gets a name there."""
    items = []
    for content in output if isinstance(output, list) else []:
        if isinstance(content, dict):
            if not isinstance(content.get("id"), str):
                content["id"] = sent(content).id
            items.append(Item(content["id"], content))
    return tuple(items)


def is_usable(content: dict[str, Any]) -> bool:
    """Whether a later request can have it in front: the engine refuses other types."""
    kind = _type(content)
    return kind in _PREFIXES and (kind != "message" or content.get("role") in _ROLES)


def shown(item: Item) -> dict[str, Any]:
    """The item as a listing shows it."""
    content = item.content
    kind = _type(content)
    filled: dict[str, Any] = {"type": kind, **content, "id": item.id}
    if kind == "message" and isinstance(content.get("content"), str):
        part = "output_text" if content.get("role") == "assistant" else "input_text"
        empty: dict[str, Any] = {"annotations": []} if part == "output_text" else {}
        filled["content"] = [{"type": part, "text": content["content"], **empty}]
    if kind in _DONE and not filled.get("status"):
        filled["status"] = "completed"
    return filled


def listing(items: Iterable[Item], *, has_more: bool) -> dict[str, Any]:
    """A page of items."""
    data = [shown(item) for item in items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def page(
    items: Sequence[Item], limit: int, after: str | None, *, descending: bool
) -> tuple[Sequence[Item], bool] | None:
    """A page of all ``items``, which are in ascending order, and whether there are more; None when
    there is no item ``after``."""
    ordered = list(reversed(items)) if descending else list(items)
    start = 0
    if after is not None:
        place = next((i for i, item in enumerate(ordered) if item.id == after), None)
        if place is None:
            return None
        start = place + 1
    return ordered[start : start + limit], len(ordered) > start + limit


def _type(content: dict[str, Any]) -> str:
    kind = content.get("type")
    return kind if isinstance(kind, str) else "message"
