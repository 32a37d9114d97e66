"""Anthropic's messages: the system prompt and the messages, and answers plain and streamed."""

from collections.abc import Iterable
from typing import Any

from app.histories.canonical import arguments, encode, said, split, unmarked
from sessions.history.chain import Conversation, Message


def conversation(body: dict[str, Any]) -> Conversation | None:
    """The messages of a request, the system prompt as the first of them; None without messages."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        return None
    system, rest = split(body.get("system"))
    first = [said("system", system, rest=rest)] if system or rest else []
    tools = encode(unmarked(body.get("tools") or []))
    return Conversation((*first, *(message(item) for item in given)), tools)


def message(item: Any) -> Message:
    """One message, whatever it is."""
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        return said("", "", rest=[item])
    text, parts = split(item.get("content"))
    calls = [
        [part.get("id") or "", part.get("name"), arguments(part.get("input"))]
        for part in parts
        if _is_call(part)
    ]
    rest = [_result(part) for part in parts if not _is_call(part)]
    return said(item["role"], text, calls, rest)


def answers(body: dict[str, Any]) -> list[Message]:
    """The one message of an answer."""
    return [message({"role": "assistant", "content": body.get("content")})]


def streamed(events: Iterable[dict[str, Any]]) -> list[Message]:
    """The same of a stream's events."""
    blocks: dict[int, dict[str, Any]] = {}
    pieces: dict[int, list[str]] = {}
    for event in events:
        index = event.get("index")
        if not isinstance(index, int):
            continue
        if event.get("type") == "content_block_start":
            blocks[index] = dict(event.get("content_block") or {"type": "text", "text": ""})
        elif event.get("type") == "content_block_delta":
            delta = event.get("delta") or {}
            said_now = delta.get("text") or delta.get("partial_json") or ""
            pieces.setdefault(index, []).append(said_now)
    for index, block in blocks.items():
        said_then = "".join(pieces.get(index, ()))
        if block.get("type") == "tool_use":
            block["input"] = said_then or block.get("input")
        elif block.get("type") == "text":
            block["text"] = (block.get("text") or "") + said_then
    return answers({"content": [blocks[index] for index in sorted(blocks)]})


def _is_call(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "tool_use"


def _result(part: Any) -> Any:
    """A tool's result with its text joined: a string is the same as one part of text."""
    if not isinstance(part, dict) or part.get("type") != "tool_result":
        return part
    text, rest = split(part.get("content"))
    failed = bool(part.get("is_error"))
    return ["tool_result", part.get("tool_use_id"), text, rest, failed]
