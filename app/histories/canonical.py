"""The canonical form of a message: what of it has to be equal for it to be the same message.

Clients send an answer back in their own way. They join or split its parts of text, trim it, leave
out what is null or empty and what the model thought, write the arguments of a tool call anew, and
move cache markers about. None of that makes it another message.
"""

import json
from collections.abc import Iterable
from typing import Any

from sessions.history.chain import Message

_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "redacted_thinking", "reasoning")
_EXACT = 2**53


def said(
    role: str, text: str, calls: Iterable[list[Any]] = (), rest: Iterable[Any] = ()
) -> Message:
    """A message. ``calls`` are ``[id, name, arguments]``, ``rest`` whatever else it holds."""
    called, other = list(calls), list(rest)
    if role == "assistant":
        text = text.strip()
    body = encode([role, text, called, other])
    length = len(text) + sum(len(encode(call)) for call in called) if role == "assistant" else 0
    tool = next((call[1] for call in called if isinstance(call[1], str)), "")
    return Message(role, body, length, tool)


def encode(value: Any) -> bytes:
    """JSON that is the same for equal values. Raises RecursionError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def split(content: Any) -> tuple[str, list[Any]]:
    """A message's content as its text, joined, and its other parts, less what was thought."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        return "", [] if content is None else [unmarked(content)]
    texts: list[str] = []
    rest: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind not in _THOUGHT_PARTS:
            rest.append(unmarked(part))
    return "".join(texts), rest


def unmarked(value: Any) -> Any:
    """``value`` without cache markers and without members that are null, at any depth."""
    if isinstance(value, dict):
        return {
            name: unmarked(item)
            for name, item in value.items()
            if item is not None and name != "cache_control"
        }
    if isinstance(value, list):
        return [unmarked(item) for item in value]
    return value


def arguments(value: Any) -> Any:
    """A tool call's arguments as the JSON value that they are, or as they stand if they are none.
    A whole number that was written as a fraction equals the number: some clients' languages know
    no difference."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and abs(value) < _EXACT and value.is_integer():
        return int(value)
    return value
