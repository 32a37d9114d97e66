"""The fake engine's HTTP: which requests it takes, and how it comes to their answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from engine.fake_answers import (
    Call,
    Usage,
    Words,
    chat_answer,
    chat_events,
    message_answer,
    message_events,
    response_answer,
    response_events,
    text_answer,
    text_events,
)
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
        answer: Callable[[Call, list[str], Usage], dict[str, Any]],
        events: Callable[[Call, Usage, Words], AsyncIterator[str]],
    ) -> None:
        @app.post(path)
        async def create(request: Request) -> Response:
            try:
                call = _accept(engine, await request.body(), prompts)
                usage = Usage()
                words = partial(_words, engine, call, usage)
                if call.stream:
                    stream = events(call, usage, words)
                    return StreamingResponse(stream, media_type="text/event-stream")
                texts = await _unless_disconnected(request, _generate_all(call, words))
                return JSONResponse(None if texts is None else answer(call, texts, usage))
            except _Refused as error:
                return _error(error.status, str(error))
            except EngineError as error:
                return _error(500, str(error))

    serve("/v1/chat/completions", _chat_prompts, chat_answer, chat_events)
    serve("/v1/completions", _text_prompts, text_answer, text_events)
    serve("/v1/responses", _response_prompts, response_answer, response_events)
    serve("/v1/messages", _chat_prompts, message_answer, message_events)
    return app


# --- requests ------------------------------------------------------------------------------------


def _accept(
    engine: "FakeEngine", raw: bytes, prompts_of: Callable[[dict[str, Any]], list[list[str]]]
) -> Call:
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
    return Call(
        id=f"fake-{time.monotonic_ns()}",
        model=model,
        prompts=prompts,
        max_tokens=int(limit),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tool=_chosen(body.get("tool_choice")),
    )


def _chosen(choice: Any) -> str:
    """The tool that a ``tool_choice`` of any API names; empty for none."""
    if not isinstance(choice, dict):
        return ""
    return str(choice.get("function", choice).get("name", ""))


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
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        called = [f"{call['name']} {call['arguments']}" for call in calls]
        text = " ".join([message.get("content") or "", *called])
        words += [f"<{message['role']}>", *text.split(), END]
    return [*words, "<assistant>"]


async def _generate_all(call: Call, words: Words) -> list[str]:
    return [" ".join([word async for word in words(n)]) for n in range(len(call.prompts))]


async def _words(engine: "FakeEngine", call: Call, usage: Usage, index: int) -> AsyncIterator[str]:
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


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)
