"""What cannot be served is refused in the API's own words, and leaves nothing behind."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conversation import chat, long_text, reused, user
from tests.valet_process import MODEL

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat(user("Hi"), max_tokens=1),
    "/v1/completions": {"model": MODEL, "prompt": "Hi", "max_tokens": 1},
    "/v1/responses": {"model": MODEL, "input": "Hi", "max_output_tokens": 1},
    MESSAGES: {"model": MODEL, "messages": [user("Hi")], "max_tokens": 1},
}
INPUT = {CHAT: "messages", "/v1/completions": "prompt", "/v1/responses": "input"}
JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def _nothing_is_stored(http: httpx.Client) -> Iterator[None]:
    def sessions() -> list[Any]:
        listed: list[Any] = http.get("/v1/sessions", params={"limit": 100}).json()["data"]
        return [(session["id"], session["turns"], session["running_turns"]) for session in listed]

    before = sessions()
    yield
    assert sessions() == before
    assert http.get("/health").status_code == 200


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, in the shape of the API that was asked."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    error: dict[str, Any] = body["error"]
    if answer.request.url.path == MESSAGES:
        assert body["type"] == "error"
        assert set(error) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(error) == {"type", "message", "param", "code"}
        assert isinstance(error["code"], str)
    assert error["message"]
    assert error["type"].islower()
    return error


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1, 2]", b'"text"', b'{"model": "\xff\xfe"}', b'{"model": ' + b"[" * 100_000],
    ids=["empty", "cut", "list", "string", "not-utf8", "deep"],
)
def test_what_is_not_a_json_object(http: httpx.Client, path: str, raw: bytes) -> None:
    refusal(http.post(path, content=raw, headers=JSON), 400)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "change",
    [
        {"model": 7},
        {"temperature": 99},
        {"temperature": float("nan")},
        {"max_tokens": "many", "max_output_tokens": "many"},
        {"max_tokens": -1, "max_output_tokens": -1},
        {"messages": 7, "prompt": {"a": 1}, "input": 7},
        {"stream": "perhaps"},
        {"session_id": 7},
        {"session_id": ["a"]},
        {"session_id": ""},
        {"session_id": "a/b"},
        {"prompt_cache_key": {"a": 1}},
    ],
    ids=str,
)
def test_wrong_values(http: httpx.Client, path: str, change: dict[str, Any]) -> None:
    body = json.dumps(BODIES[path] | change)
    error = refusal(http.post(path, content=body, headers=JSON), 400)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", BODIES)
def test_a_request_without_its_input(http: httpx.Client, path: str) -> None:
    refusal(http.post(path, json={"model": MODEL, "max_tokens": 1}), 400)


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_model(http: httpx.Client, path: str) -> None:
    error = refusal(http.post(path, json=BODIES[path] | {"model": "gpt-none"}), 404)
    assert error["type"] == "not_found_error"


@pytest.mark.parametrize("path", BODIES)
def test_a_prompt_that_is_too_long(http: httpx.Client, path: str) -> None:
    words = "word " * 9000
    body = {"messages": [user(words)], "prompt": words, "input": words}
    field = INPUT.get(path, "messages")
    error = refusal(http.post(path, json=BODIES[path] | {field: body[field]}), 400)
    assert "8192" in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("n", [0, -1, 10**6])
def test_a_number_of_answers_that_is_none(http: httpx.Client, path: str, n: int) -> None:
    refusal(http.post(path, json=BODIES[path] | {"n": n}), 400)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}},
        {"structured_outputs": {"regex": "("}},
        {"logit_bias": {"99999999": 1}},
        {"top_logprobs": 5000, "logprobs": True},
        {"chat_template": "{{ 7 * 7 }}"},
        {"messages": [user("\ud800")]},
    ],
    ids=str,
)
def test_wrong_values_of_a_chat(http: httpx.Client, change: dict[str, Any]) -> None:
    refusal(http.post(CHAT, content=json.dumps(BODIES[CHAT] | change), headers=JSON), 400)


def test_a_header_that_cannot_name_a_session(http: httpx.Client) -> None:
    for value in ("a b", "a/b", "x" * 257):
        headers = {"X-Session-ID": value}
        error = refusal(http.post(CHAT, json=BODIES[CHAT], headers=headers), 400)
        assert error["param"] == "X-Session-ID"


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_body_that_is_too_large(http: httpx.Client, path: str) -> None:
    raw = b'{"model": "' + b"x" * (65 << 20) + b'"}'
    error = refusal(http.post(path, content=raw, headers=JSON), 413)
    assert error["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/sessions/none", 404),
        ("GET", "/v1/sessions/none/turns", 404),
        ("POST", "/v1/sessions/none/park", 404),
        ("POST", "/v1/sessions/none/prefetch", 404),
        ("DELETE", "/v1/sessions/none", 404),
        ("GET", "/v1/sessions/none/other", 404),
        ("GET", "/v1/sessions/%00", 404),
        ("GET", "/v1/sessions/%F0%9F%92%A9", 404),
        ("GET", "/v1/sessions?limit=0", 400),
        ("GET", "/v1/sessions?limit=many", 400),
        ("GET", "/v1/sessions?state=asleep", 400),
        ("GET", "/v1/sessions?after=nonsense", 400),
        ("PUT", "/v1/sessions/none", 405),
        ("GET", CHAT, 405),
        ("GET", MESSAGES, 405),
        ("GET", "/v1/models/none", 404),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/chat/completions/batch", 404),
        ("POST", "/invocations", 404),
    ],
)
def test_routes_that_are_not_there(http: httpx.Client, method: str, path: str, status: int) -> None:
    refusal(http.request(method, path), status)


@pytest.mark.parametrize("wish", [{"tier": "tape"}, {"deadline_ms": 0}, {"deadline": 1}, [1]])
def test_a_prefetch_that_makes_no_sense(http: httpx.Client, wish: Any) -> None:
    refusal(http.post("/v1/sessions/none/prefetch", json=wish), 400)


class TestFieldsOfTheEngine:
    """Fields that tell the engine whose KV to use: the server decides that, never the client."""

    @pytest.fixture(autouse=True)
    def _nothing_is_stored(self) -> None:
        """These requests are served."""

    @pytest.mark.parametrize(
        "field",
        [
            {"cache_salt": "salt-of-another"},
            {"kv_transfer_params": {"do_remote_prefill": True, "remote_engine_id": "x"}},
            {"vllm_xargs": {"session_id": "local/other", "cache_salt": "x"}},
        ],
        ids=lambda field: next(iter(field)),
    )
    def test_have_no_effect(self, http: httpx.Client, field: dict[str, Any]) -> None:
        name = f"engine-{next(iter(field))}"
        body = chat(user(long_text(name)), session_id=name)
        first = http.post(CHAT, json=body).json()
        second = http.post(CHAT, json=body | field).json()
        assert second["kv_receipt"]["session_id"] == name
        assert second["kv_receipt"]["turn"] == 2
        assert reused(second["kv_receipt"]) >= 256
        assert second["choices"][0]["message"] == first["choices"][0]["message"]
        assert second["kv_transfer_params"] is None

    def test_a_chosen_request_id_is_nobody_elses(self, http: httpx.Client) -> None:
        """Reports are looked up by request: a stop string ends a request before its report."""
        text = long_text("request ids")
        http.post(CHAT, json=chat(user(text))).raise_for_status()
        for tokens, question in ((300, text), (1, "Hi")):
            body = chat(user(question), request_id="a", stop=["a", "e", "i", "o"], max_tokens=64)
            receipt = http.post(CHAT, json=body).json()["kv_receipt"]
            assert (receipt["prompt_tokens"] > 300) == (tokens == 300)
