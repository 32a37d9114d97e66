"""Responses: instructions and input items, and outputs plain and streamed.

An answer's items (messages, tool calls, reasoning) that follow one another are one message here, as
they are to a chat template.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from app.histories.canonical import arguments, encode, said, split, unmarked
from sessions.history.chain import Conversation, Message

_FINAL = ("response.completed", "response.incomplete")
_RESULTS = ("function_call_output", "custom_tool_call_output")


def conversation(body: dict[str, Any]) -> Conversation | None:
    """The items of a request, the instructions as the first message; None without input."""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        return None
    instructions = body.get("instructions")
    first = [said("system", instructions)] if isinstance(instructions, str) else []
    tools = encode(unmarked(body.get("tools") or []))
    return Conversation((*first, *_messages(items)), tools)


def answers(body: dict[str, Any]) -> list[Message]:
    """The one message of an answer."""
    output = body.get("output")
    return list(_messages(output))[:1] if isinstance(output, list) else []


def streamed(events: Iterable[dict[str, Any]]) -> list[Message]:
    """The same of a stream's events, of which the last has the whole answer."""
    for event in events:
        if event.get("type") in _FINAL and isinstance(event.get("response"), dict):
            return answers(event["response"])
    return []


def _messages(items: list[Any]) -> Iterator[Message]:
    answer: _Answer | None = None
    for item in items:
        if _is_answer(item):
            answer = answer or _Answer()
            answer.add(item)
            continue
        if answer is not None:
            yield answer.message()
            answer = None
        yield _other(item)
    if answer is not None:
        yield answer.message()


class _Answer:
    """Items of one answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: list[list[Any]] = []
        self._rest: list[Any] = []

    def add(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if kind == "function_call":
            call = [item.get("call_id") or "", item.get("name"), arguments(item.get("arguments"))]
            self._calls.append(call)
        elif kind != "reasoning":
            text, rest = split(item.get("content"))
            self._texts.append(text.strip())
            self._rest += rest

    def message(self) -> Message:
        return said("assistant", "\n".join(t for t in self._texts if t), self._calls, self._rest)


def _is_answer(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    if kind in ("function_call", "reasoning"):
        return True
    return kind in (None, "message") and item.get("role") == "assistant"


def _other(item: Any) -> Message:
    if not isinstance(item, dict):
        return said("", "", rest=[item])
    kind, role = item.get("type"), item.get("role")
    if kind in (None, "message") and isinstance(role, str):
        text, rest = split(item.get("content"))
        return said(role, text, rest=rest)
    kept = {k: v for k, v in unmarked(item).items() if k not in ("id", "status")}
    if kind in _RESULTS:
        text, rest = split(kept.get("output"))
        return said("tool", text, rest=[kept.get("call_id"), *rest])
    return said("", "", rest=[kept])
