"""The fake engine's HTTP: four APIs in the real server's shapes, as far as Valet looks at them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from engine.fake_tokens import END
from engine.port import EngineError

if TYPE_CHECKING:
    from engine.fake import FakeEngine

T = TypeVar("T")


class _Refused(Exception):
    """The request cannot be served."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Call:
    """One accepted request."""

    id: str
    model: str
    prompts: list[list[str]]
    max_tokens: int
    stream: bool
    include_usage: bool


@dataclass(slots=True)
class _Usage:
    prompt: int = 0
    cached: int = 0
    output: int = 0

    def openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.output,
            "total_tokens": self.prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def responses(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.output,
        }

    def anthropic(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt - self.cached,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.output,
        }


def fake_app(engine: "FakeEngine") -> FastAPI:
    """The application of a running fake engine."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> Response:
        try:
            engine.check_alive()
        except EngineError:
            return Response(status_code=503)
        return Response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        data = [{"id": name, "object": "model", "owned_by": "valet"} for name in engine.models]
        return {"object": "list", "data": data}

    def serve(
        path: str,
        prompts: Callable[[dict[str, Any]], list[list[str]]],
        answer: Callable[[_Call, list[str], _Usage], dict[str, Any]],
        events: Callable[["FakeEngine", _Call], AsyncIterator[str]],
    ) -> None:
        @app.post(path)
        async def create(request: Request) -> Response:
            try:
                call = _accept(engine, await request.body(), prompts)
                if call.stream:
                    return StreamingResponse(events(engine, call), media_type="text/event-stream")
                whole = await _unless_disconnected(request, _generate_all(engine, call))
                return JSONResponse(answer(call, *whole) if whole else None)
            except _Refused as error:
                return _error(error.status, str(error))
            except EngineError as error:
                return _error(500, str(error))

    serve("/v1/chat/completions", _chat_prompts, _chat_answer, _chat_events)
    serve("/v1/completions", _text_prompts, _text_answer, _text_events)
    serve("/v1/responses", _response_prompts, _response_answer, _response_events)
    serve("/v1/messages", _chat_prompts, _message_answer, _message_events)
    return app


# --- requests ------------------------------------------------------------------------------------


def _accept(
    engine: "FakeEngine", raw: bytes, prompts_of: Callable[[dict[str, Any]], list[list[str]]]
) -> _Call:
    try:
        body = json.loads(raw)
        model = body.get("model", engine.models[0])
        prompts = prompts_of(body)
    except (ValueError, AttributeError, KeyError, TypeError):
        raise _Refused(400, "The request's body is not valid.") from None
    if model not in engine.models:
        raise _Refused(404, f"The model `{model}` does not exist.")
    if any(not 0 < len(prompt) <= engine.max_model_len for prompt in prompts):
        raise _Refused(400, f"A prompt has 1 to {engine.max_model_len} tokens.")
    limit = body.get("max_tokens") or body.get("max_output_tokens") or 8
    return _Call(
        id=f"fake-{time.monotonic_ns()}",
        model=model,
        prompts=prompts,
        max_tokens=int(limit),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def _chat_prompts(body: dict[str, Any]) -> list[list[str]]:
    return [_render(body["messages"])]


def _text_prompts(body: dict[str, Any]) -> list[list[str]]:
    prompt = body["prompt"]
    return [text.split() for text in ([prompt] if isinstance(prompt, str) else prompt)]


def _response_prompts(body: dict[str, Any]) -> list[list[str]]:
    given, instructions = body["input"], body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    first = [{"role": "system", "content": instructions}] if instructions else []
    return [_render([*first, *(_message_of(item) for item in items)])]


def _message_of(item: dict[str, Any]) -> dict[str, Any]:
    match item.get("type"):
        case "function_call":
            return {"role": "assistant", "content": f"{item['name']} {item['arguments']}"}
        case "function_call_output":
            return {"role": "tool", "content": item["output"]}
        case _:
            said = item["content"]
            text = said if isinstance(said, str) else " ".join(part["text"] for part in said)
            return {"role": item["role"], "content": text}


def _render(messages: list[dict[str, Any]]) -> list[str]:
    """A reply that comes back unchanged continues the prompt that it answered."""
    words: list[str] = []
    for message in messages:
        words += [f"<{message['role']}>", *message["content"].split(), END]
    return [*words, "<assistant>"]


async def _generate_all(engine: "FakeEngine", call: _Call) -> tuple[list[str], _Usage]:
    texts, usage = [], _Usage()
    for index in range(len(call.prompts)):
        texts.append(" ".join([w async for w in _words(engine, call, usage, index)]))
    return texts, usage


async def _words(
    engine: "FakeEngine", call: _Call, usage: _Usage, index: int = 0
) -> AsyncIterator[str]:
    prompt, cached = usage.prompt, usage.cached
    async for word in engine.generate(call.prompts[index], call.max_tokens):
        usage.prompt = prompt + word.prompt_tokens
        usage.cached = cached + word.cached_tokens
        usage.output += 1
        if word.text:
            yield word.text


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.create_task(gone())
    done, pending = await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return working.result() if working in done else None


# --- answers -------------------------------------------------------------------------------------


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)


def _sse(data: dict[str, Any], *, named: bool = False) -> str:
    event = f"event: {data['type']}\n" if named else ""
    return f"{event}data: {json.dumps(data)}\n\n"


def _chat_answer(call: _Call, texts: list[str], usage: _Usage) -> dict[str, Any]:
    message = {"role": "assistant", "content": texts[0]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _openai(call, "chat.completion", [choice], usage)


def _text_answer(call: _Call, texts: list[str], usage: _Usage) -> dict[str, Any]:
    choices = [{"index": i, "text": t, "finish_reason": "stop"} for i, t in enumerate(texts)]
    return _openai(call, "text_completion", choices, usage)


def _response_answer(call: _Call, texts: list[str], usage: _Usage) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text} for text in texts]
    output = [{"type": "message", "role": "assistant", "content": content}]
    head = {"id": call.id, "object": "response", "status": "completed", "model": call.model}
    return {**head, "output": output, "usage": usage.responses()}


def _message_answer(call: _Call, texts: list[str], usage: _Usage) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    head = {"id": call.id, "type": "message", "role": "assistant", "model": call.model}
    return {**head, "content": content, "stop_reason": "end_turn", "usage": usage.anthropic()}


def _openai(
    call: _Call, kind: str, choices: list[dict[str, Any]], usage: _Usage | None
) -> dict[str, Any]:
    answer = {"id": call.id, "object": kind, "created": int(time.time()), "model": call.model}
    return {**answer, "choices": choices} | ({"usage": usage.openai()} if usage else {})


async def _chat_events(engine: "FakeEngine", call: _Call) -> AsyncIterator[str]:
    usage = _Usage()

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _sse(_openai(call, "chat.completion.chunk", [choice], None))

    yield chunk({"role": "assistant", "content": ""})
    async for word in _words(engine, call, usage):
        yield chunk({"content": word if usage.output == 1 else f" {word}"})
    yield chunk({}, "stop")
    if call.include_usage:
        yield _sse(_openai(call, "chat.completion.chunk", [], usage))
    yield "data: [DONE]\n\n"


async def _text_events(engine: "FakeEngine", call: _Call) -> AsyncIterator[str]:
    usage = _Usage()
    for index in range(len(call.prompts)):
        async for word in _words(engine, call, usage, index):
            choice = {"index": index, "text": f"{word} ", "finish_reason": None}
            yield _sse(_openai(call, "text_completion", [choice], None))
    if call.include_usage:
        yield _sse(_openai(call, "text_completion", [], usage))
    yield "data: [DONE]\n\n"


async def _response_events(engine: "FakeEngine", call: _Call) -> AsyncIterator[str]:
    usage, words = _Usage(), []
    yield _sse({"type": "response.created", "response": {"id": call.id}}, named=True)
    async for word in _words(engine, call, usage):
        words.append(word)
        yield _sse({"type": "response.output_text.delta", "delta": f"{word} "}, named=True)
    whole = _response_answer(call, [" ".join(words)], usage)
    yield _sse({"type": "response.completed", "response": whole}, named=True)


async def _message_events(engine: "FakeEngine", call: _Call) -> AsyncIterator[str]:
    usage = _Usage()
    start = {"type": "message_start", "message": {"id": call.id, "usage": usage.anthropic()}}
    yield _sse(start, named=True)
    yield _sse({"type": "content_block_start", "index": 0}, named=True)
    async for word in _words(engine, call, usage):
        delta = {"type": "text_delta", "text": f"{word} "}
        yield _sse({"type": "content_block_delta", "index": 0, "delta": delta}, named=True)
    yield _sse({"type": "content_block_stop", "index": 0}, named=True)
    stop = {"stop_reason": "end_turn"}
    yield _sse({"type": "message_delta", "delta": stop, "usage": usage.anthropic()}, named=True)
    yield _sse({"type": "message_stop"}, named=True)
