"""Receipts in every API's answer, whole and streamed, and streams that are not held up."""

import asyncio
import json
from typing import Any

import pytest
from app_harness import RawRequest, Run, messages, sse

from app.answers import Answer
from app.wire import Api

TEXT = "one two three four five six seven eight nine ten eleven twelve"
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": messages(TEXT), "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": TEXT, "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": TEXT},
    "/v1/messages": {"messages": messages(TEXT), "max_tokens": 8},
}


def _cached(path: str, usage: dict[str, Any]) -> int:
    if path == "/v1/messages":
        return usage["cache_read_input_tokens"]
    key = "input_tokens_details" if path == "/v1/responses" else "prompt_tokens_details"
    return usage[key]["cached_tokens"]


def _carrier(path: str, events: list[Any]) -> dict[str, Any]:
    if path == "/v1/responses":
        return events[-1]["response"]
    return events[-2]


@pytest.mark.parametrize("path", REQUESTS)
async def test_whole_answers(run: Run, path: str) -> None:
    async with run() as r:
        for turn in (1, 2):
            answer = await r.client.post(path, json=REQUESTS[path] | {"session_id": "s1"})
            assert answer.status_code == 200
            assert answer.headers["x-session-id"] == "s1"
            assert int(answer.headers["content-length"]) == len(answer.content)
            body = answer.json()
            assert body["kv_receipt"]["turn"] == turn
            reused = sum(body["kv_receipt"]["reused_tokens"].values())
            assert _cached(path, body["usage"]) == reused
        assert reused > 0


@pytest.mark.parametrize("path", REQUESTS)
async def test_streams(run: Run, path: str) -> None:
    async with run() as r:
        for turn in (1, 2):
            request = REQUESTS[path] | {"session_id": "s1", "stream": True}
            answer = await r.client.post(path, json=request)
            events = sse(answer.text)
            carrier = _carrier(path, events)
            assert carrier["kv_receipt"]["turn"] == turn
            reused = sum(carrier["kv_receipt"]["reused_tokens"].values())
            assert _cached(path, carrier["usage"]) == reused
            others = [e for e in events if e is not events[-1] and e is not carrier]
            assert "kv_receipt" not in json.dumps(others)
        assert reused > 0


async def test_a_stream_without_usage_has_the_receipt_and_still_no_usage(run: Run) -> None:
    async with run() as r:
        request = {"messages": messages(TEXT), "stream": True}
        answer = await r.client.post("/v1/chat/completions", json=request)
        *_, last, done = sse(answer.text)
        assert done == "[DONE]"
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["kv_receipt"]["session_id"] == answer.headers["x-session-id"]
        assert "usage" not in last


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_load_that_failed_later_is_not_called_cached(
    run: Run, path: str, stream: bool
) -> None:
    async with run() as r:
        request = REQUESTS[path] | {"session_id": "s1"}
        await r.client.post(path, json=request)
        r.engine.fail_next_load()
        answer = await r.client.post(path, json=request | {"stream": stream})
        body = _carrier(path, sse(answer.text)) if stream else answer.json()
        assert body["kv_receipt"]["miss"][0]["reason"] == "io_timeout"
        assert _cached(path, body["usage"]) == 0
        if path == "/v1/messages":
            assert body["usage"]["input_tokens"] == body["kv_receipt"]["prompt_tokens"]


async def test_several_prompts_are_one_turn(run: Run) -> None:
    async with run() as r:
        request = {"prompt": [TEXT, "a b c d e f g h"], "session_id": "s1"}
        body = (await r.client.post("/v1/completions", json=request)).json()
        assert body["kv_receipt"]["prompt_tokens"] == body["usage"]["prompt_tokens"] == 20
        assert body["kv_receipt"]["turn"] == 1
        assert len((await r.get("/v1/sessions/s1/turns"))["data"]) == 1


async def test_tokens_are_passed_on_as_they_come(run: Run) -> None:
    words = asyncio.Semaphore(0)
    arrived = asyncio.Semaphore(0)

    async def pace() -> None:
        await words.acquire()

    async with run(pace=pace) as r:
        request = RawRequest("/v1/chat/completions", {"messages": messages(TEXT), "stream": True})
        forever = asyncio.Event()

        def seen(message: Any) -> None:
            if b'"content": "' in message.get("body", b""):
                arrived.release()

        async with asyncio.timeout(10):
            serving = asyncio.create_task(request.run(r.valet.app, _wait(forever), seen))
            await arrived.acquire()  # the role, with empty content
            for _ in range(7):
                words.release()
                await arrived.acquire()  # before the next word is allowed
            words.release()
            await serving
        await r.valet.desk.settle(5)


def _wait(event: asyncio.Event) -> Any:
    async def leave() -> None:
        await event.wait()

    return leave


# --- events cut in odd places --------------------------------------------------------------------


class _Turn:
    """A turn whose engine finishes when told."""

    session_id = "s1"
    has_history = True
    chunk_tokens = 4

    def __init__(self) -> None:
        self.done = False
        self.finished = 0
        self.answers: list[Any] = []
        self.calls_tool = False

    async def finish(self, answers: list[Any], *, calls_tool: bool) -> dict[str, Any]:
        self.finished += 1
        self.answers = answers
        self.calls_tool = calls_tool
        return {"turn": 1, "reused_tokens": {"device": 4, "dram": 0, "ssd": 0}}


class _Client:
    """Puts chunks through an ``Answer`` and keeps what comes out."""

    def __init__(self, api: Api) -> None:
        self.turn = _Turn()
        self.out: list[Any] = []
        self._answer = Answer(self._keep, api, self.turn, named=False)  # type: ignore[arg-type]

    async def _keep(self, message: Any) -> None:
        self.out.append(message)

    async def start(self) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await self._answer({"type": "http.response.start", "status": 200, "headers": headers})

    async def chunk(self, body: bytes, *, more: bool = True) -> None:
        await self._answer({"type": "http.response.body", "body": body, "more_body": more})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.out)


TAIL = (
    b'data: {"choices":[{"delta":{"content":"\xc3\xa9"}}]}\n\n'
    b": keep-alive\n\n"
    b'data: {"choices":[],"usage":{"prompt_tokens":9}}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1000])
async def test_events_split_anywhere(size: int) -> None:
    client = _Client(Api.CHAT)
    await client.start()
    await client.chunk(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
    client.turn.done = True
    for start in range(0, len(TAIL), size):
        await client.chunk(TAIL[start : start + size])
    await client.chunk(b"", more=False)
    first, second, usage, done = sse(client.body.decode())
    assert first["choices"][0]["delta"]["content"] == "x"
    assert second["choices"][0]["delta"]["content"] == "é"
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert usage["kv_receipt"]["turn"] == 1
    assert done == "[DONE]"
    assert b": keep-alive\n\n" in client.body
    assert client.out[-1]["more_body"] is False
    assert client.turn.finished == 1


@pytest.mark.parametrize("cut", range(1, 30))
async def test_the_engine_may_finish_in_the_middle_of_an_event(cut: int) -> None:
    event = b'data: {"choices":[{"index":0}]}\n\n'
    client = _Client(Api.CHAT)
    await client.start()
    await client.chunk(event[:cut])
    client.turn.done = True
    await client.chunk(event[cut:] + TAIL, more=False)
    events = sse(client.body.decode())
    assert events[0] == {"choices": [{"index": 0}]}
    assert "kv_receipt" in events[-2]


async def test_before_the_engine_has_finished_nothing_is_touched() -> None:
    client = _Client(Api.CHAT)
    await client.start()
    for piece in (b"data: {bro", b"ken\n\ndata: [DONE]\n\n", b'data: {"x":1}'):
        await client.chunk(piece)
        assert client.out[-1]["body"] == piece
    assert client.turn.finished == 0


async def test_of_a_chat_only_events_are_parsed_that_may_call_a_tool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bytes] = []

    def parse(data: bytes) -> Any:
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr("app.sse.parse_object", parse)
    client = _Client(Api.CHAT)
    await client.start()
    client.turn.done = True
    token = b'data: {"choices":[{"delta":{"content":"a tool"},"finish_reason":null}]}\n\n'
    end = b'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    await client.chunk(100 * token + end + TAIL, more=False)
    assert client.body.startswith(100 * token + end)
    assert client.turn.calls_tool
    assert len(parsed) == 2, "the end, and the event that the receipt goes into"


async def test_a_stream_that_ends_without_a_marker_loses_nothing() -> None:
    client = _Client(Api.CHAT)
    await client.start()
    client.turn.done = True
    await client.chunk(b'data: {"x":1}\n\ndata: {"y":2}\n\nhalf')
    await client.chunk(b"", more=False)
    assert client.body == b'data: {"x":1}\n\ndata: {"y":2}\n\nhalf'


async def test_an_error_event_carries_no_receipt() -> None:
    client = _Client(Api.CHAT)
    await client.start()
    client.turn.done = True
    await client.chunk(b'data: {"error":{"message":"m"}}\n\ndata: [DONE]\n\n', more=False)
    assert b"kv_receipt" not in client.body
    assert client.turn.finished == 0


async def test_named_events_keep_their_name() -> None:
    client = _Client(Api.MESSAGES)
    await client.start()
    client.turn.done = True
    await client.chunk(
        b'event: message_delta\r\ndata: {"type":"message_delta","usage":{"input_tokens":9}}\r\n\r\n'
    )
    assert client.body.startswith(b"event: message_delta\ndata: {")
    assert sse(client.body.decode())[0]["usage"]["cache_read_input_tokens"] == 4
