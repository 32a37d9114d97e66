"""The fake engine's answers, plain and streamed, in the real server's shapes as far as Valet looks
at them.

An answer is words. Where the request's ``tool_choice`` names a tool, they are that call's one
argument.
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

Words = Callable[[int], AsyncIterator[str]]
"""Generates the words of the reply to a request's prompt number so and so, from 0."""


@dataclass(slots=True)
class Call:
    """One accepted request."""

    id: str
    model: str
    prompts: list[list[str]]
    max_tokens: int
    stream: bool
    include_usage: bool
    tool: str
    """The tool that is to be called; empty for none."""


@dataclass(slots=True)
class Usage:
    """Tokens of a request so far."""

    prompt: int = 0
    cached: int = 0
    output: int = 0

    def openai(self) -> dict[str, Any]:
        """As chat completions and completions have it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.output,
            "total_tokens": self.prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def responses(self) -> dict[str, Any]:
        """As Responses have it."""
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.output,
        }

    def anthropic(self) -> dict[str, Any]:
        """As messages have it."""
        return {
            "input_tokens": self.prompt - self.cached,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.output,
        }


# --- whole ---------------------------------------------------------------------------------------


def chat_answer(call: Call, texts: list[str], usage: Usage) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": texts[0]}
    if call.tool:
        message |= {"content": None, "tool_calls": [_chat_call(call, _arguments(texts[0]))]}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(call)}
    return _openai(call, "chat.completion", [choice], usage)


def text_answer(call: Call, texts: list[str], usage: Usage) -> dict[str, Any]:
    """A completion."""
    choices = [{"index": i, "text": t, "finish_reason": "stop"} for i, t in enumerate(texts)]
    return _openai(call, "text_completion", choices, usage)


def response_answer(call: Call, texts: list[str], usage: Usage) -> dict[str, Any]:
    """A response."""
    content = [{"type": "output_text", "text": text} for text in texts]
    output: dict[str, Any] = {"type": "message", "role": "assistant", "content": content}
    if call.tool:
        output = {
            "type": "function_call",
            "call_id": f"call_{call.id}",
            "name": call.tool,
            "arguments": _arguments(texts[0]),
        }
    head = {"id": call.id, "object": "response", "status": "completed", "model": call.model}
    return {**head, "output": [output], "usage": usage.responses()}


def message_answer(call: Call, texts: list[str], usage: Usage) -> dict[str, Any]:
    """An Anthropic message."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    if call.tool:
        content = [{**_tool_use(call), "input": json.loads(_arguments(texts[0]))}]
    head = {"id": call.id, "type": "message", "role": "assistant", "model": call.model}
    return {**head, "content": content, **_stop(call), "usage": usage.anthropic()}


# --- streamed ------------------------------------------------------------------------------------


async def chat_events(call: Call, usage: Usage, words: Words) -> AsyncIterator[str]:
    """A stream of a chat completion."""

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _sse(_openai(call, "chat.completion.chunk", [choice], None))

    yield chunk({"role": "assistant", "content": ""})
    if call.tool:
        yield chunk({"tool_calls": [_chat_call(call, "") | {"index": 0}]})
    async for piece in _pieces(call, words):
        if call.tool:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        else:
            yield chunk({"content": piece})
    yield chunk({}, _finish_reason(call))
    if call.include_usage:
        yield _sse(_openai(call, "chat.completion.chunk", [], usage))
    yield "data: [DONE]\n\n"


async def text_events(call: Call, usage: Usage, words: Words) -> AsyncIterator[str]:
    """A stream of a completion."""
    for index in range(len(call.prompts)):
        async for word in words(index):
            choice = {"index": index, "text": f"{word} ", "finish_reason": None}
            yield _sse(_openai(call, "text_completion", [choice], None))
    if call.include_usage:
        yield _sse(_openai(call, "text_completion", [], usage))
    yield "data: [DONE]\n\n"


async def response_events(call: Call, usage: Usage, words: Words) -> AsyncIterator[str]:
    """A stream of a response."""
    said = []
    yield _sse({"type": "response.created", "response": {"id": call.id}}, named=True)
    kind = "function_call_arguments" if call.tool else "output_text"
    async for word in words(0):
        said.append(word)
        yield _sse({"type": f"response.{kind}.delta", "delta": f"{word} "}, named=True)
    whole = response_answer(call, [" ".join(said)], usage)
    yield _sse({"type": "response.completed", "response": whole}, named=True)


async def message_events(call: Call, usage: Usage, words: Words) -> AsyncIterator[str]:
    """A stream of an Anthropic message."""
    start = {"type": "message_start", "message": {"id": call.id, "usage": usage.anthropic()}}
    yield _sse(start, named=True)
    block = {"content_block": {**_tool_use(call), "input": {}}} if call.tool else {}
    yield _sse({"type": "content_block_start", "index": 0, **block}, named=True)
    async for piece in _pieces(call, words):
        delta = {"type": "text_delta", "text": piece}
        if call.tool:
            delta = {"type": "input_json_delta", "partial_json": piece}
        yield _sse({"type": "content_block_delta", "index": 0, "delta": delta}, named=True)
    yield _sse({"type": "content_block_stop", "index": 0}, named=True)
    end = {"type": "message_delta", "delta": _stop(call), "usage": usage.anthropic()}
    yield _sse(end, named=True)
    yield _sse({"type": "message_stop"}, named=True)


async def _pieces(call: Call, words: Words) -> AsyncIterator[str]:
    """What is said, or the arguments of the call, as they come."""
    opening, closing = _arguments("|").split("|") if call.tool else ("", "")
    if opening:
        yield opening
    first = True
    async for word in words(0):
        yield word if first else f" {word}"
        first = False
    if closing:
        yield closing


# --- parts ---------------------------------------------------------------------------------------


def _arguments(text: str) -> str:
    return json.dumps({"said": text})


def _chat_call(call: Call, arguments: str) -> dict[str, Any]:
    function = {"name": call.tool, "arguments": arguments}
    return {"id": f"call_{call.id}", "type": "function", "function": function}


def _tool_use(call: Call) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.tool}


def _finish_reason(call: Call) -> str:
    return "tool_calls" if call.tool else "stop"


def _stop(call: Call) -> dict[str, Any]:
    return {"stop_reason": "tool_use" if call.tool else "end_turn"}


def _openai(
    call: Call, kind: str, choices: list[dict[str, Any]], usage: Usage | None
) -> dict[str, Any]:
    answer = {"id": call.id, "object": kind, "created": int(time.time()), "model": call.model}
    return {**answer, "choices": choices} | ({"usage": usage.openai()} if usage else {})


def _sse(data: dict[str, Any], *, named: bool = False) -> str:
    event = f"event: {data['type']}\n" if named else ""
    return f"{event}data: {json.dumps(data)}\n\n"
