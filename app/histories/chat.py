"""Chat completions: messages, and answers plain and streamed."""

from collections.abc import Iterable
from typing import Any

from app.histories.canonical import arguments, encode, said, split, unmarked
from sessions.history.chain import Conversation, Message

_KNOWN = frozenset(
    {"role", "content", "tool_calls", "reasoning", "reasoning_content", "cache_control"}
)


def conversation(body: dict[str, Any]) -> Conversation | None:
    """The messages of a request; None when it has none."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        return None
    tools = encode(unmarked([body.get("tools") or [], body.get("functions") or []]))
    return Conversation(tuple(message(item) for item in given), tools)


def message(item: Any) -> Message:
    """One message, whatever it is."""
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        return said("", "", rest=[item])
    text, rest = split(item.get("content"))
    given = item.get("tool_calls") or []
    calls = [_call(call) for call in given] if isinstance(given, list) else [["", "", given]]
    # What is null or empty may be left out when it is sent back.
    more = {k: unmarked(v) for k, v in item.items() if k not in _KNOWN and v not in (None, "", [])}
    if item["role"] == "assistant":
        # What the server adds to an answer, and clients may keep.
        more = {k: v for k, v in more.items() if k in ("name", "function_call", "refusal")}
    return said(item["role"], text, calls, [*rest, more] if more else rest)


def answers(body: dict[str, Any]) -> list[Message]:
    """The messages of an answer, one a choice, in order of their index."""
    choices = body.get("choices")
    found = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
    found.sort(key=lambda choice: _index(choice.get("index")))
    return [message(c["message"]) for c in found if isinstance(c.get("message"), dict)]


def streamed(events: Iterable[dict[str, Any]]) -> list[Message]:
    """The same of a stream's events."""
    choices: dict[int, _Streamed] = {}
    for event in events:
        for choice in event.get("choices") or ():
            index = _index(choice.get("index"))
            choices.setdefault(index, _Streamed()).add(choice.get("delta") or {})
    return [message(choices[index].message()) for index in sorted(choices)]


class _Streamed:
    """A message that comes in pieces."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, dict[str, list[str]]] = {}

    def add(self, delta: dict[str, Any]) -> None:
        self._text.append(delta.get("content") or "")
        self._refusal.append(delta.get("refusal") or "")
        for piece in delta.get("tool_calls") or ():
            call = self._calls.setdefault(
                _index(piece.get("index")), {"id": [], "name": [], "arguments": []}
            )
            function = piece.get("function") or {}
            # Some servers repeat the id with every piece.
            if piece.get("id") and not call["id"]:
                call["id"].append(piece["id"])
            call["name"].append(function.get("name") or "")
            call["arguments"].append(function.get("arguments") or "")

    def message(self) -> dict[str, Any]:
        calls = [
            {
                "id": "".join(call["id"]),
                "function": {
                    "name": "".join(call["name"]),
                    "arguments": "".join(call["arguments"]),
                },
            }
            for _, call in sorted(self._calls.items())
        ]
        whole = {"role": "assistant", "content": "".join(self._text), "tool_calls": calls}
        return whole | {"refusal": "".join(self._refusal)}


def _call(call: Any) -> list[Any]:
    if not isinstance(call, dict):
        return ["", "", call]
    function = call.get("function")
    if not isinstance(function, dict):
        function = {k: v for k, v in call.items() if k not in ("id", "type", "index")}
    return [call.get("id") or "", function.get("name"), arguments(function.get("arguments"))]


def _index(value: Any) -> int:
    return value if isinstance(value, int) else 0
