"""The way back: an answer on its way to the client gets its session's id and its receipt."""

from collections.abc import Sequence
from typing import Any

from starlette.types import Message, Send

from app.histories.reading import MAX_ANSWER_BYTES, read_answer, read_stream
from app.live_turn import LiveTurn
from app.receipts import cached_tokens
from app.responses.desk import Exchange
from app.sse import Event, EventSplitter, encode_json, parse_object
from app.wire import (
    Api,
    answer_in,
    calls_tool,
    holds_response,
    put_cached,
    put_receipt,
    takes_receipt,
)
from sessions.history.chain import Message as Said

_Headers = list[tuple[bytes, bytes]]

_CALL = b"_call"
"""In every event of a chat that says it ends with a call of a tool, and in hardly any other: none
of those is parsed."""


class Answer:
    """An ASGI ``send`` for one request.

    A JSON answer is held until it is whole. A stream is passed on untouched, chunk by chunk, until
    the engine has finished; only then are events parsed, and the last one held back until the next
    shows that it was not the last. Of a Responses stream the events that hold the response are
    told apart from the beginning.
    """

    def __init__(
        self,
        send: Send,
        api: Api,
        turn: LiveTurn,
        *,
        named: bool,
        exchange: Exchange | None = None,
    ) -> None:
        """``named``: the client named the session, so it hears the id even of an error.
        ``exchange``: of a request to the Responses API."""
        self._send = send
        self._api = api
        self._turn = turn
        self._named = named
        self._exchange = exchange
        self._json_start: Message | None = None
        self._json_body = b""
        self._streaming = False
        self._splitter: EventSplitter | None = None
        self._held: Event | None = None
        self._passed: list[bytes] = []
        self._passed_bytes = 0
        self._calls_tool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._json_start is not None:
            await self._json(self._json_start, message)
        elif self._streaming:
            await self._stream(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        headers: _Headers = list(message.get("headers", ()))
        kind = dict(headers).get(b"content-type", b"").partition(b";")[0].strip()
        succeeded = message["status"] < 400
        if succeeded or self._named:
            headers.append((b"x-session-id", self._turn.session_id.encode()))
        message = {**message, "headers": headers}
        if succeeded and kind == b"application/json":
            self._json_start = message
            return
        self._streaming = succeeded and kind == b"text/event-stream"
        await self._send(message)

    async def _json(self, start: Message, message: Message) -> None:
        self._json_body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = self._json_body
        answer = parse_object(body)
        if answer is not None and await self._finish(answer, read_answer(self._api, answer)):
            body = encode_json(answer)
        headers: _Headers = [h for h in start["headers"] if h[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: Message) -> None:
        self._keep(message.get("body", b""))
        if self._splitter is None:
            if not self._turn.done and self._exchange is None:
                await self._send(message)
                return
            self._splitter = EventSplitter()
        out: list[bytes] = []
        for event in self._splitter.feed(message.get("body", b"")):
            out += await self._pass(event)
        more = message.get("more_body", False)
        if not more:
            if self._held is not None:
                out.append(self._held.raw)
            out.append(self._splitter.rest())
        body = b"".join(out)
        if body or not more:
            await self._send({**message, "body": body})

    async def _pass(self, event: Event) -> list[bytes]:
        """What may go to the client now that ``event`` is here."""
        if not self._api.ends_with_done:
            return [(await self._told(event)).raw]
        if not event.data:
            return [event.raw]
        ready, self._held = self._held, event
        if event.data == b"[DONE]":
            self._held = None
            value = ready.json() if ready is not None else None
            if ready is not None and value is not None and "error" not in value:
                ready = await self._with_receipt(ready, value)
            return [ready.raw, event.raw] if ready is not None else [event.raw]
        if ready is None:
            return []
        # The reason of the end may come before the usage, which comes last.
        if _CALL in ready.raw and not self._calls_tool:
            self._calls_tool = calls_tool(self._api, ready.json() or {})
        return [ready.raw]

    def _keep(self, chunk: bytes) -> None:
        """The stream is read as a whole when it is over, so that nothing is parsed on the way."""
        self._passed_bytes += len(chunk)
        if self._turn.has_history and self._passed_bytes <= MAX_ANSWER_BYTES:
            self._passed.append(chunk)
        else:
            self._passed.clear()

    async def _told(self, event: Event) -> Event:
        """An event of a Responses or Anthropic stream with what the engine does not know."""
        exchange = self._exchange
        if exchange is not None and not holds_response(event.name):
            return event
        value = event.json()
        if value is None:
            return event
        if takes_receipt(self._api, value):
            return await self._with_receipt(event, value)
        if exchange is None:
            return event
        exchange.dress(answer_in(self._api, value))
        return event.with_json(value)

    async def _with_receipt(self, event: Event, value: dict[str, Any]) -> Event:
        said = read_stream(self._api, self._passed)
        return event.with_json(value) if await self._finish(value, said) else event

    async def _finish(self, value: dict[str, Any], said: Sequence[Said]) -> bool:
        """End the turn and say in its answer, or in a stream's final event, what is known of it
        now; False when that is nothing."""
        answer, turn, exchange = answer_in(self._api, value), self._turn, self._exchange
        if exchange is not None:
            exchange.dress(answer)
            if turn.done:
                reports = (g.report for g in turn.context.generations)
                put_cached(self._api, answer, sum(cached_tokens(r) for r in reports if r))
            turn.also_at_end.append(exchange.keeping(answer, turn))
        called = self._calls_tool or calls_tool(self._api, value)
        receipt = await turn.finish(said, calls_tool=called)
        if exchange is not None:
            exchange.told(answer, recorded=turn.recorded)
        if receipt is not None:
            put_receipt(self._api, value, receipt, turn.chunk_tokens)
        return receipt is not None or exchange is not None
