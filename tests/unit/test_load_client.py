"""A benchmark's client, against servers that answer from memory."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from load import client as client_module
from load.client import Client

Handler = Callable[[httpx.Request], httpx.Response]


def _client(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> Client:
    real = httpx.Client

    def connect(**options: Any) -> httpx.Client:
        return real(**options, transport=httpx.MockTransport(handler))

    monkeypatch.setattr(client_module.httpx, "Client", connect)
    return Client("http://server")


def _answering(routes: dict[str, Any], seen: list[httpx.Request]) -> Handler:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        route = routes[request.url.path]
        return route(request) if callable(route) else httpx.Response(200, json=route)

    return answer


def _by_letter(request: httpx.Request) -> httpx.Response:
    return httpx.Response(
        200, json={"tokens": [ord(c) for c in json.loads(request.content)["prompt"]]}
    )


def test_prompts_have_exactly_as_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with _client(monkeypatch, _answering({"/tokenize": _by_letter}, [])) as client:
        assert len(client.tokens("a", 700)) == 700
        assert client.tokens("a", 700) == client.tokens("a", 700)
        assert client.tokens("a", 700) != client.tokens("b", 700)


def test_a_tokenizer_without_tokens_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        _client(monkeypatch, _answering({"/tokenize": {"tokens": []}}, [])) as client,
        pytest.raises(ValueError, match="too few"),
    ):
        client.tokens("a", 10)


def test_a_completion_is_streamed_in_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Request] = []
    stream = 'data: {"choices": [{"text": "hi"}]}\n\ndata: [DONE]\n\n'

    def complete(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=stream, headers={"content-type": "text/event-stream"})

    with _client(monkeypatch, _answering({"/v1/completions": complete}, seen)) as client:
        assert client.complete([1, 2], 4, "s").text == "hi"
    body = json.loads(seen[-1].content)
    assert seen[-1].headers["x-session-id"] == "s"
    assert body["prompt"] == [1, 2]
    assert body["max_tokens"] == 4
    assert body["stream"] is True


def test_an_error_says_what_the_server_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(400, text="the prompt is too long")

    with (
        _client(monkeypatch, _answering({"/v1/chat/completions": refuse}, [])) as client,
        pytest.raises(httpx.HTTPStatusError, match="the prompt is too long"),
    ):
        client.chat([{"role": "user", "content": "x"}], 4)


def test_waiting_for_the_store_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {True: {"kv": {"ssd_complete": True}}, False: {"kv": {"ssd_complete": False}}}
    routes = {f"/v1/sessions/{str(done).lower()}": state for done, state in states.items()}
    with _client(monkeypatch, _answering(routes, [])) as client:
        assert client.wait_until_stored("true", timeout_s=0)
        assert not client.wait_until_stored("false", timeout_s=-1)
