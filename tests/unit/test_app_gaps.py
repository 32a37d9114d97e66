"""What the engine is told of gaps: whom a session waits for when its answer is out, what clients
say of it, and that its next request is on its way."""

import asyncio
from typing import Any, TypeVar

import pytest
from app_harness import RawRequest, Run, Running, sse
from tenant_harness import BODIES, CHAT, LONG, bearer

from app.expectation import Expectation
from cache_tiers.hints import Arriving, Expect, Hint, Pulse, TurnEnded
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey
from engine.fake import FakeEngine
from engine.port import CommandFailed
from sessions.history.chain import Message

CHOICES: dict[str, Any] = {
    CHAT: {"type": "function", "function": {"name": "run_tests"}},
    "/v1/responses": {"type": "function", "name": "run_tests"},
    "/v1/messages": {"type": "tool", "name": "run_tests"},
}
"""Requests that have the fake engine call a tool."""

H = TypeVar("H", bound=Hint)


async def _told(r: Running, kind: type[H]) -> list[H]:
    """What the engine has heard of a kind, now that everybody has spoken."""
    gaps = r.valet.desk.gaps
    while unsaid := gaps._arriving | gaps._telling:
        await asyncio.wait(unsaid)
    return [hint for hint in r.engine.told if isinstance(hint, kind)]


# --- a gap begins --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHOICES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_waits_for_the_tool_that_its_answer_calls(
    run: Run, path: str, stream: bool
) -> None:
    async with run() as r:
        body = BODIES[path] | {"tool_choice": CHOICES[path], "session_id": "s1", "stream": stream}
        if path == CHAT:
            body["stream_options"] = {"include_usage": True}
        for turn in (1, 2):
            assert (await r.client.post(path, json=body)).status_code == 200
            (*_, ended) = await _told(r, TurnEnded)
            assert (ended.session, ended.awaits, ended.tool, ended.turn) == (
                "local/s1",
                Awaits.TOOL,
                "run_tests",
                turn,
            )
            assert 0 <= ended.hour <= 23
            assert ended.expected_s is None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_otherwise_it_waits_for_a_person(run: Run, path: str, stream: bool) -> None:
    async with run() as r:
        answer = await r.client.post(path, json=BODIES[path] | {"stream": stream})
        (ended,) = await _told(r, TurnEnded)
        assert ended.session == f"local/{answer.headers['x-session-id']}"
        assert (ended.awaits, ended.tool) == (Awaits.PERSON, "")


@pytest.mark.parametrize("path", CHOICES)
@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_too_long_to_be_read_says_at_least_why_it_ended(
    run: Run, path: str, usage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.answers.MAX_ANSWER_BYTES", 0)
    async with run() as r:
        body = BODIES[path] | {"tool_choice": CHOICES[path], "stream": True}
        if path == CHAT:
            body["stream_options"] = {"include_usage": usage}
        await r.client.post(path, json=body)
        (ended,) = await _told(r, TurnEnded)
        assert ended.awaits is Awaits.TOOL


async def test_a_tools_name_is_bounded_and_can_be_sent(run: Run) -> None:
    async with run() as r:
        choice = {"type": "function", "function": {"name": "x" * 1000}}
        await r.chat(LONG, tool_choice=choice)
        half_a_pair = Message("assistant", b"", tool="\udc80\udc80é")
        key, said = SessionKey("local/s1"), Expectation()
        stay = r.valet.desk.gaps.begun(key)
        stay.answered(1, [half_a_pair], calls_tool=False, expectation=said)
        long, broken = await _told(r, TurnEnded)
        assert long.tool == "x" * 128
        assert broken.tool == "??é"


async def test_the_engine_hears_of_the_end_before_the_client_can_go_on(run: Run) -> None:
    async with run() as r:
        for _ in range(3):
            await r.client.post(CHAT, json=BODIES[CHAT], headers={"x-session-id": "s1"})
        await _told(r, TurnEnded)
        assert [type(hint) for hint in r.engine.told] == [Arriving, TurnEnded] * 3


async def test_a_client_that_left_is_a_person_who_is_away(run: Run) -> None:
    leaving, never = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        leaving.set()
        await never.wait()

    async def leave() -> None:
        await leaving.wait()

    async with run(pace=pace) as r:
        body = BODIES[CHAT] | {"session_id": "s1", "tool_choice": CHOICES[CHAT]}
        async with asyncio.timeout(10):
            await RawRequest(CHAT, body, {"x-session-expect": "seconds=9"}).run(r.valet.app, leave)
        (ended,) = await _told(r, TurnEnded)
        assert ended == TurnEnded(ended.session, Awaits.PERSON, turn=1, hour=ended.hour)


async def test_what_is_refused_begins_no_gap(run: Run) -> None:
    async with run() as r:
        await r.chat("a b", expect=404, model="other", session_id="s1")
        assert await _told(r, TurnEnded) == []


async def test_a_session_is_away_when_its_last_running_turn_is_over(run: Run) -> None:
    async with run() as r:
        body = BODIES[CHAT] | {"session_id": "s1"}
        await asyncio.gather(*(r.client.post(CHAT, json=body) for _ in range(5)))
        (ended,) = await _told(r, TurnEnded)
        await r.client.post(CHAT, json=body)
        before, again = await _told(r, TurnEnded)
        assert before == ended
        assert again == TurnEnded(ended.session, Awaits.PERSON, turn=6, hour=again.hour)


async def test_an_engine_that_hears_nothing_costs_nobody_an_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> Pulse:
        raise CommandFailed("it does not listen")

    monkeypatch.setattr(FakeEngine, "hint", fails)
    async with run() as r:
        for _ in range(3):
            assert (await r.chat(LONG, session_id="s1"))["kv_receipt"]
        await _told(r, TurnEnded)
    assert caplog.text.count("it does not listen") == 1


async def test_an_engine_that_hangs_holds_up_no_answer_and_no_stop(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: object) -> Pulse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FakeEngine, "hint", hangs)
    monkeypatch.setattr("app.gaps.MAX_ARRIVING", 2)
    monkeypatch.setattr("app.gaps.MAX_TELLING", 2)
    async with asyncio.timeout(10), run() as r:
        for number in range(5):
            await r.chat(LONG, session_id=f"s{number}")
        gaps = r.valet.desk.gaps
        assert (len(gaps._arriving), len(gaps._telling)) == (2, 2)


# --- a gap ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BODIES)
async def test_a_request_is_told_of_before_its_body_is_there(run: Run, path: str) -> None:
    async with run() as r:
        request = RawRequest(path, BODIES[path], {"x-session-id": "s1"})
        told: list[Arriving] = []

        async def receive() -> dict[str, Any]:
            told.extend(await _told(r, Arriving))
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        await r.valet.app(request.scope, receive, send)
        assert [arriving.session for arriving in told] == ["local/s1"]
        assert await _told(r, TurnEnded) == []


@pytest.mark.parametrize(
    ("headers", "body", "sessions"),
    [
        ({"x-session-id": "s1"}, {}, ["s1"]),
        ({"x-correlation-id": "s1"}, {}, ["s1"]),
        ({}, {"session_id": "s1"}, ["s1"]),
        ({}, {"prompt_cache_key": "s1"}, ["s1"]),
        ({"x-session-id": "s1"}, {"session_id": "s1"}, ["s1"]),
        ({"x-session-id": "s2"}, {"session_id": "s1"}, ["s2", "s1"]),
        ({}, {}, []),
    ],
)
async def test_whoever_names_the_session_says_so_once(
    run: Run, headers: dict[str, str], body: dict[str, Any], sessions: list[str]
) -> None:
    async with run() as r:
        await r.client.post(CHAT, json=BODIES[CHAT] | body, headers=headers)
        told = await _told(r, Arriving)
        assert [arriving.session for arriving in told] == [f"local/{name}" for name in sessions]


async def test_a_session_that_is_recognised_is_told_of_too(run: Run) -> None:
    async with run() as r:
        first = await r.chat(LONG)
        reply = first["choices"][0]["message"]["content"]
        assert await _told(r, Arriving) == []
        again = await r.chat(LONG, reply, "and then")
        session = again["kv_receipt"]["session_id"]
        assert session == first["kv_receipt"]["session_id"]
        assert await _told(r, Arriving) == [Arriving(f"local/{session}")]


async def test_a_fork_is_told_of_when_the_engine_knows_it(run: Run) -> None:
    async with run() as r:
        reply = (await r.chat(LONG))["choices"][0]["message"]["content"]
        await r.chat(LONG, reply, "and then")
        fork = await r.chat(LONG, reply, "or else")
        (*_, arriving) = await _told(r, Arriving)
        assert arriving.session == f"local/{fork['kv_receipt']['session_id']}"


async def test_a_session_that_is_running_is_not_told_of(run: Run) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        started.set()
        await go.wait()

    async with asyncio.timeout(10), run(pace=pace) as r:
        turn = asyncio.create_task(r.chat(LONG, session_id="s1"))
        await started.wait()
        began = len(await _told(r, Arriving))
        other = asyncio.create_task(r.chat(LONG, session_id="s1"))
        started.clear()
        await started.wait()
        assert len(await _told(r, Arriving)) == began == 1
        go.set()
        await asyncio.gather(turn, other)


async def test_only_who_is_let_in_is_told_of_and_only_as_his_own(run: Run) -> None:
    settings = {"VALET_QUOTA_REQUESTS_PER_MINUTE": "1"}
    async with run(keys="alice-key,bob-key", settings=settings) as r:
        named = {"x-session-id": "s1"}
        for headers, status in [
            ({}, 401),
            (bearer("other"), 401),
            (bearer("alice-key"), 200),
            (bearer("alice-key"), 429),
            (bearer("bob-key"), 200),
        ]:
            answer = await r.client.post(CHAT, json=BODIES[CHAT], headers=headers | named)
            assert answer.status_code == status
        alice, bob = await _told(r, Arriving)
        assert alice.session != bob.session
        assert {ended.session for ended in await _told(r, TurnEnded)} == {
            alice.session,
            bob.session,
        }


async def test_without_sessions_nothing_is_told(run: Run) -> None:
    async with run(settings={"VALET_SESSIONS": "off"}) as r:
        headers = {"x-session-id": "s1", "x-session-expect": "seconds=3"}
        assert (await r.client.post(CHAT, json=BODIES[CHAT], headers=headers)).status_code == 200
        assert await _told(r, Arriving) == []
        assert r.engine.told == []


async def test_the_receipt_says_what_was_there_before_the_request(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        await r.post("/v1/sessions/s1/park")
        receipt = (await r.chat(LONG, headers={"x-session-id": "s1"}))["kv_receipt"]
        assert receipt["reused_tokens"] == {"device": 0, "dram": 0, "ssd": 12}
        assert receipt["prefetched_tokens"] == 12
        (*_, turn) = (await r.get("/v1/sessions/s1/turns"))["data"]
        assert turn["kv_receipt"]["prefetched_tokens"] == 0


# --- what clients say of it ----------------------------------------------------------------------


async def test_a_header_says_what_comes_after_the_answer(run: Run) -> None:
    async with run() as r:
        for said, tool in [
            ("seconds=30; tool=pytest", "pytest"),
            ("seconds=30; session=s1", ""),
            ("seconds=30", ""),
        ]:
            headers = {"x-session-id": "s1", "x-session-expect": said}
            await r.chat(LONG, headers=headers)
            (*_, ended) = await _told(r, TurnEnded)
            assert (ended.tool, ended.expected_s) == (tool, 30.0)
            assert ended.awaits is (Awaits.TOOL if tool else Awaits.PERSON)
        assert await _told(r, Expect) == []


async def test_the_tool_that_was_called_is_known_better_than_the_one_that_was_said(
    run: Run,
) -> None:
    async with run() as r:
        headers = {"x-session-expect": "seconds=30; tool=pytest"}
        await r.chat(LONG, headers=headers, tool_choice=CHOICES[CHAT])
        (ended,) = await _told(r, TurnEnded)
        assert (ended.tool, ended.expected_s) == ("run_tests", 30.0)


async def test_a_header_can_speak_of_another_session(run: Run) -> None:
    async with run() as r:
        said = {"x-session-expect": "seconds=45; tool=build; session=worker"}
        await r.chat(LONG, session_id="boss", headers=said)
        assert await _told(r, Expect) == [Expect("local/worker", 45.0, "build")]
        (ended,) = await _told(r, TurnEnded)
        assert (ended.session, ended.expected_s) == ("local/boss", None)


@pytest.mark.parametrize("path", BODIES)
async def test_a_header_that_means_nothing_is_refused(run: Run, path: str) -> None:
    async with run() as r:
        headers = {"x-session-expect": "seconds=nan"}
        answer = await r.client.post(path, json=BODIES[path], headers=headers)
        assert answer.status_code == 400
        if path != "/v1/messages":
            assert answer.json()["error"]["param"] == "X-Session-Expect"
        assert await _told(r, TurnEnded) == []


async def test_a_framework_says_what_it_has_started(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        said = await r.post("/v1/sessions/s1/expect", json={"in_s": 600, "tool": "pytest"})
        assert (said["id"], said["object"]) == ("s1", "session.expected")
        assert 60 < said["next_turn"]["expected_in_s"] < 6000
        assert await _told(r, Expect) == [Expect("local/s1", 600.0, "pytest")]
        await r.post("/v1/sessions/s1/expect", json={"tool": "make"})
        (*_, expect) = await _told(r, Expect)
        assert expect == Expect("local/s1", None, "make")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"in_s": -1}', "in_s"),
        (b'{"in_s": NaN}', "in_s"),
        (b'{"in_s": Infinity}', "in_s"),
        (b'{"in_s": 604801}', "in_s"),
        (b'{"in_s": "30"}', "in_s"),
        (b'{"tool": ""}', "tool"),
        (b'{"in_s": 1, "minutes": 2}', "minutes"),
        (b"{}", "body"),
    ],
)
async def test_an_expectation_that_cannot_be_is_refused(run: Run, body: bytes, param: str) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        headers = {"content-type": "application/json"}
        answer = await r.client.post("/v1/sessions/s1/expect", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert await _told(r, Expect) == []


async def test_nobody_speaks_of_what_is_not_his(run: Run) -> None:
    async with run(keys="alice-key,bob-key") as r:
        await r.chat(LONG, session_id="s1", headers=bearer("alice-key"))
        path, said = "/v1/sessions/s1/expect", {"in_s": 5}
        await r.post(path, 404, json=said, headers=bearer("bob-key"))
        assert await _told(r, Expect) == []
        await r.post(path, json=said, headers=bearer("alice-key"))


async def test_an_expectation_that_the_engine_cannot_hear_is_503(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        r.engine.die()
        error = (await r.post("/v1/sessions/s1/expect", 503, json={"in_s": 5}))["error"]
        assert error["code"] == "engine_unavailable"


# --- what is shown of it -------------------------------------------------------------------------


async def test_a_session_shows_its_next_turn_while_it_is_away(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        await _told(r, TurnEnded)
        next_turn = (await r.get("/v1/sessions/s1"))["next_turn"]
        assert next_turn["expected_in_s"] > 0
        assert next_turn["by_s"] is None or next_turn["by_s"] >= next_turn["expected_in_s"]
        fork = await r.post("/v1/sessions/s1/fork", 201, json={"id": "s2"})
        assert (await r.get(f"/v1/sessions/{fork['id']}"))["next_turn"] is None


async def test_a_stream_is_passed_on_as_it_was(run: Run) -> None:
    """That its tool is looked for changes nothing of it."""
    async with run() as r:
        body = BODIES[CHAT] | {"tool_choice": CHOICES[CHAT], "stream": True}
        *chunks, last, done = sse((await r.client.post(CHAT, json=body)).text)
        pieces = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
        called = [piece[0]["function"] for piece in pieces if piece]
        assert called[0]["name"] == "run_tests"
        assert "".join(part["arguments"] for part in called).startswith('{"said": "')
        assert last["choices"][0]["finish_reason"] == "tool_calls"
        assert done == "[DONE]"
