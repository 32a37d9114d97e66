"""What comes in: keys, refusals, ids, clients that leave, and a database that fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from app_harness import RawRequest, Run, messages

from app.layer import SessionLayer
from sessions.types import StateUnavailable

CHAT = "/v1/chat/completions"
ROUTES = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": messages("a b c d e")},
    "/v1/completions": {"prompt": "a b c d e"},
    "/v1/responses": {"input": "a b c d e"},
    "/v1/messages": {"messages": messages("a b c d e"), "max_tokens": 4},
}


async def test_ids_by_precedence(run: Run) -> None:
    async with run() as r:
        headers = {"x-session-id": "from-header", "x-correlation-id": "from-correlation"}
        named = BODIES[CHAT] | {"session_id": "from-body", "prompt_cache_key": "from-key"}
        answer = await r.client.post(CHAT, json=named, headers=headers)
        assert answer.headers["x-session-id"] == "from-body"
        named.pop("session_id")
        answer = await r.client.post(CHAT, json=named, headers=headers)
        assert answer.headers["x-session-id"] == "from-header"
        answer = await r.client.post(CHAT, json=named)
        assert answer.headers["x-session-id"] == "from-key"
        new = [(await r.client.post(CHAT, json=BODIES[CHAT])).headers["x-session-id"] for _ in "ab"]
        assert new[0].startswith("s_")
        assert new[0] != new[1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session_id": 7}, "session_id"),
        ({"session_id": "a/b"}, "session_id"),
        ({"prompt_cache_key": ["x"]}, "prompt_cache_key"),
    ],
)
async def test_bad_names_are_refused_and_store_nothing(
    run: Run, body: dict[str, Any], param: str
) -> None:
    async with run() as r:
        error = (await r.chat("a b", expect=400, **body))["error"]
        assert error["param"] == param
        assert (await r.get("/v1/sessions"))["data"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": "nonsense"}, 400),
        ({"messages": messages("word " * 5000)}, 400),
    ],
)
async def test_what_the_engine_refuses_stores_nothing(
    run: Run, body: dict[str, Any], status: int
) -> None:
    async with run() as r:
        request = BODIES[CHAT] | body
        answer = await r.client.post(CHAT, json=request)
        assert answer.status_code == status
        assert "x-session-id" not in answer.headers
        answer = await r.client.post(CHAT, json=request | {"session_id": "s1"})
        assert answer.headers["x-session-id"] == "s1"
        await r.valet.desk.settle(5)
        assert (await r.get("/v1/sessions"))["data"] == []


async def test_invalid_json_gets_the_engines_own_error(run: Run) -> None:
    async with run() as r:
        answer = await r.client.post(CHAT, content=b'{"model": ')
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "The request's body is not valid."


@pytest.mark.parametrize("path", [*ROUTES, "/v1/models", "/v1/sessions", "/v1/unknown"])
async def test_everything_under_v1_needs_a_key(run: Run, path: str) -> None:
    async with run(keys="good-key") as r:
        for headers in ({}, {"authorization": "Bearer bad"}, {"x-api-key": "good-key2"}):
            method = "POST" if path in BODIES else "GET"
            answer = await r.client.request(method, path, headers=headers, json=BODIES.get(path))
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()
            if path == "/v1/messages":
                assert error["type"] == "error"
                assert error["error"]["type"] == "authentication_error"
            else:
                assert error["error"]["code"] == "invalid_api_key"
        assert (await r.client.get("/health")).status_code == 200


@pytest.mark.parametrize("header", [("Authorization", "bearer k2"), ("X-Api-Key", "k2")])
async def test_either_header_carries_a_key(run: Run, header: tuple[str, str]) -> None:
    async with run(keys="k1,k2") as r:
        for path in ROUTES:
            answer = await r.client.post(path, json=BODIES[path], headers=dict([header]))
            assert answer.status_code == 200, path


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/v1/chat/completions/batch", "/inference/v1/generate", "/v1//sessions"],
)
async def test_other_ways_to_generate_are_not_served(run: Run, path: str) -> None:
    async with run() as r:
        answer = await r.client.post(path, json=BODIES[CHAT])
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_route"


async def test_what_is_listed_is_served(run: Run) -> None:
    async with run() as r:
        paths = (await r.get("/openapi.json"))["paths"]
        assert {CHAT, "/v1/sessions", "/v1/responses/{response_id}", "/health"} <= set(paths)
        for path in paths:
            answer = await r.client.request("TRACE", path)
            assert answer.status_code == 405, path


async def test_a_body_too_large_is_refused_before_it_is_read(run: Run) -> None:
    async with run() as r:
        layer: SessionLayer = r.valet.app
        layer._max_body_bytes = 1000
        answer = await r.client.post(CHAT, json={"messages": messages("x" * 2000)})
        assert answer.status_code == 413
        answer = await r.client.post("/v1/messages", content=b"x" * 1001)
        assert answer.json()["error"]["type"] == "request_too_large"


async def test_salts_differ_by_tenant_and_survive_a_restart(run: Run, tmp_path: Path) -> None:
    async with run(keys="k1,k2") as r:
        for key in ("k1", "k2"):
            body = BODIES[CHAT] | {"session_id": "s1", "cache_salt": "mine"}
            await r.client.post(CHAT, json=body, headers={"x-api-key": key})
        first, second = r.engine.disk.manifests.values()
    assert not set(first) & set(second)
    secret = tmp_path / "home" / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_bytes()
    async with run(keys="k1,k2") as r:
        pass
    assert secret.read_bytes() == before


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_its_turn(run: Run, stream: bool) -> None:
    leaving, never = asyncio.Event(), asyncio.Event()
    words = 0

    async def pace() -> None:
        nonlocal words
        words += 1
        if words == 3:
            leaving.set()
            await never.wait()

    async def leave() -> None:
        await leaving.wait()

    async with run(pace=pace) as r:
        body = BODIES[CHAT] | {"session_id": "s1", "stream": stream}
        async with asyncio.timeout(10):
            await RawRequest(CHAT, body).run(r.valet.app, leave)
        await r.valet.desk.settle(5)
        assert r.engine.aborted == 1
        session = await r.get("/v1/sessions/s1")
        assert (session["state"], session["running_turns"]) == ("idle", 0)
        (turn,) = (await r.get("/v1/sessions/s1/turns"))["data"]
        assert turn["finish_reason"] == "abort"
        assert turn["kv_receipt"] is None


async def test_a_running_turn_makes_its_session_busy(run: Run) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        started.set()
        await go.wait()

    async with run(pace=pace) as r:
        async with asyncio.timeout(10):
            turn = asyncio.create_task(r.chat("a b c", session_id="s1"))
            await started.wait()
            while not (await r.client.get("/v1/sessions/s1")).is_success:
                pass  # its row is written beside the generation
            for method, path in (("POST", "/v1/sessions/s1/park"), ("DELETE", "/v1/sessions/s1")):
                answer = await r.client.request(method, path)
                assert answer.status_code == 409
                assert answer.json()["error"]["code"] == "session_busy"
            go.set()
            assert (await turn)["kv_receipt"]["turn"] == 1
        await r.post("/v1/sessions/s1/park")


async def test_when_the_answer_is_there_the_turn_is_recorded(run: Run) -> None:
    async with run() as r:
        answer = await r.client.post(CHAT, json=BODIES[CHAT] | {"session_id": "s1"})
        assert answer.status_code == 200
        await r.post("/v1/sessions/s1/park")


async def test_without_its_database_valet_still_answers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run() as r:

        async def fail(*_: Any, **__: Any) -> Any:
            raise StateUnavailable("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(type(r.valet.sessions), "begin_turn", fail)
            for stream in (False, True):
                body = BODIES[CHAT] | {"session_id": "s1", "stream": stream}
                answer = await r.client.post(CHAT, json=body)
                assert answer.status_code == 200
                assert answer.headers["x-session-id"] == "s1"
                assert '"turn":null,"session_state":"unavailable"' in answer.text
        with monkeypatch.context() as patch:
            patch.setattr(type(r.valet.sessions), "list", fail)
            error = (await r.get("/v1/sessions", expect=503))["error"]
            assert error["code"] == "state_unavailable"
        assert (await r.get("/v1/sessions"))["data"] == []


async def test_a_slow_database_delays_the_record_and_not_the_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    database_answers = asyncio.Event()
    async with run() as r:
        begin_turn = type(r.valet.sessions).begin_turn

        async def slowly(*given: Any, **named: Any) -> Any:
            await database_answers.wait()
            return await begin_turn(*given, **named)

        monkeypatch.setattr(type(r.valet.sessions), "begin_turn", slowly)
        monkeypatch.setattr("app.live_turn.STATE_WAIT_S", 0.01)
        answer = await r.client.post(CHAT, json=BODIES[CHAT] | {"session_id": "s1"})
        receipt = answer.json()["kv_receipt"]
        assert receipt["turn"] is None
        database_answers.set()
        await r.valet.desk.settle(5)
        (turn,) = (await r.get("/v1/sessions/s1/turns"))["data"]
        assert receipt.pop("session_state") == "unavailable"
        assert turn["kv_receipt"] == receipt | {"turn": 1}


async def test_an_engine_that_dies_is_an_error_and_no_turn(run: Run) -> None:
    async with run() as r:
        r.engine.die()
        await r.chat("a b c", expect=500, session_id="s1")
        assert (await r.client.get("/health")).status_code == 503
        assert (await r.get("/v1/sessions"))["data"] == []


async def test_turns_of_one_session_at_once_have_their_own_numbers(run: Run) -> None:
    async with run() as r:
        body = BODIES[CHAT] | {"session_id": "s1"}
        answers = await asyncio.gather(*(r.client.post(CHAT, json=body) for _ in range(5)))
        numbers = sorted(a.json()["kv_receipt"]["turn"] for a in answers)
        assert numbers == [1, 2, 3, 4, 5]
