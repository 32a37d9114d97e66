"""Clients that name no session, over HTTP: which session their requests are found to continue."""

import asyncio
import json
from typing import Any

import pytest
from app_harness import Run, Running, messages, sse

from app.auth import LOCAL_TENANT
from cache_tiers.hints import SessionKv
from cache_tiers.types import SessionKey
from engine import fake_routes
from engine.port import EngineError
from sessions.identity import parse_session_key
from sessions.types import StateUnavailable

CHAT = "/v1/chat/completions"
LONG = "tell me of the sea and of the ships that sail on it by night"


async def _say(r: Running, *texts: str, stream: bool = False, **more: Any) -> tuple[str, str, Any]:
    """The session, the answer's text and its receipt."""
    body = {"model": "fake", "messages": messages(*texts), "max_tokens": 8} | more
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = await r.client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    if stream:
        events = [event for event in sse(answer.text) if event != "[DONE]"]
        choices = [choice for event in events for choice in event["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        receipt = events[-1]["kv_receipt"]
    else:
        text = answer.json()["choices"][0]["message"]["content"]
        receipt = answer.json()["kv_receipt"]
    await r.valet.desk.settle(5)
    assert receipt["session_id"] == answer.headers["x-session-id"]
    return answer.headers["x-session-id"], text, receipt


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_resends_its_history_stays_in_one_session(
    run: Run, stream: bool
) -> None:
    async with run() as r:
        texts = [LONG]
        session, said, _ = await _say(r, *texts, stream=stream)
        for turn in range(2, 6):
            texts += [said, f"and {turn} more"]
            again, said, receipt = await _say(r, *texts, stream=stream)
            assert (again, receipt["turn"]) == (session, turn)
            assert [miss["reason"] for miss in receipt["miss"]] == ["appended"]
            assert "prefix_change" not in receipt
        assert len((await r.get("/v1/sessions"))["data"]) == 1


async def test_what_clients_do_to_an_answer_changes_nothing(run: Run) -> None:
    async with run() as r:
        session, said, _ = await _say(r, LONG)
        sent_back = {
            "role": "assistant",
            "content": [{"type": "text", "text": f" {said}\n", "cache_control": {"type": "x"}}],
            "refusal": None,
            "tool_calls": [],
            "reasoning_content": "unheard",
        }
        history = [*messages(LONG), sent_back, {"role": "user", "content": "go on"}]
        # The fake engine renders only plain text: recognition alone is looked at.
        answer = await r.client.post(CHAT, json={"model": "fake", "messages": history})
        plain, _, _ = await _say(r, LONG, said, "go on")
        assert plain == session
        assert answer.status_code in (200, 400)


async def test_what_the_template_drops_stays_as_it_was_computed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake_routes._render

    def forgetful(history: list[dict[str, Any]]) -> list[str]:
        """Leaves out the first word of what was answered, as templates do with thoughts."""
        shown = [
            m | {"content": m["content"].partition(" ")[2]} if m["role"] == "assistant" else m
            for m in history
        ]
        return whole(shown)

    monkeypatch.setattr(fake_routes, "_render", forgetful)
    async with run() as r:
        texts = [LONG]
        session, said, receipt = await _say(r, *texts)
        for turn in range(2, 5):
            # The answer is as long as the prompt's end and the end of a turn.
            before = receipt["prompt_tokens"] + 8
            texts += [said, f"and {turn} more"]
            again, said, receipt = await _say(r, *texts, stream=turn == 3)
            assert (again, receipt["turn"]) == (session, turn)
            assert "prefix_change" not in receipt
            assert [miss["reason"] for miss in receipt["miss"]] == ["appended"]
            assert sum(receipt["reused_tokens"].values()) >= before // 4 * 4
        disk = r.engine.disk
    async with run(disk) as r:
        texts += [said, "after a restart"]
        again, said, receipt = await _say(r, *texts)
        assert again == session
        assert [miss["reason"] for miss in receipt["miss"]] == ["appended"]
        # A question that was changed is rendered as it is sent.
        texts = [*texts[:-1], said, "one more"]
        texts[2] = "another question"
        _, _, receipt = await _say(r, *texts, session_id=session)
        assert receipt["prefix_change"]["message"] == 2


async def test_a_history_that_parts_is_a_fork(run: Run) -> None:
    async with run() as r:
        session, first, _ = await _say(r, LONG)
        _, second, _ = await _say(r, LONG, first, "go on")
        fork, _, receipt = await _say(r, LONG, first, "something else")
        assert fork != session
        assert receipt["turn"] == 1
        assert sum(receipt["reused_tokens"].values()) > 0
        found = await r.valet.sessions.get(LOCAL_TENANT, fork)
        assert (found.parent_id, found.parent_turn) == (session, 1)
        # The parent goes on as if nothing had been.
        same, _, receipt = await _say(r, LONG, first, "go on", second, "and on")
        assert (same, receipt["turn"]) == (session, 3)


async def _held(r: Running) -> set[str]:
    return {parse_session_key(kv.session)[1] for kv in await r.engine.held_sessions()}


async def test_a_fork_that_is_refused_holds_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(max_model_len=64) as r:
        session, first, _ = await _say(r, LONG)
        await _say(r, LONG, first, "go on")
        assert await _held(r) == {session}
        fork, forks = r.engine.fork, []

        async def noted(*which: Any) -> SessionKv:
            forks.append(await fork(*which))
            return forks[-1]

        monkeypatch.setattr(r.engine, "fork", noted)
        await r.chat(LONG, first, "too long " * 64, expect=400)
        assert [kv.known for kv in forks] == [True]
        assert await _held(r) == {session}
        await r.client.delete(f"/v1/sessions/{session}")
        assert await _held(r) == set()


async def test_a_refusal_stays_one_when_its_fork_cannot_be_dropped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(max_model_len=64) as r:
        _, first, _ = await _say(r, LONG)
        await _say(r, LONG, first, "go on")
        asked = []

        async def lost(session: SessionKey) -> None:
            asked.append(session)
            raise EngineError("no answer")

        monkeypatch.setattr(r.engine, "drop", lost)
        await r.chat(LONG, first, "too long " * 64, expect=400)
        assert len(asked) == 1


async def test_a_fork_that_the_database_does_not_know_holds_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        raise StateUnavailable("gone")

    async with run() as r:
        session, first, _ = await _say(r, LONG)
        await _say(r, LONG, first, "go on")
        monkeypatch.setattr(type(r.valet.sessions), "begin_turn", lost)
        fork, _, receipt = await _say(r, LONG, first, "something else")
        assert (fork != session, receipt["turn"]) == (True, None)
        assert sum(receipt["reused_tokens"].values()) > 0
        # The drop is asked for when the turn is over.
        await r.valet.desk.settle(5)
        assert await _held(r) == {session}


async def test_a_request_repeated_is_a_fork_of_the_state_before(run: Run) -> None:
    async with run() as r:
        session, first, _ = await _say(r, LONG)
        _, second, _ = await _say(r, LONG, first, "go on")
        fork, _, receipt = await _say(r, LONG, first, "go on")
        assert fork != session
        assert receipt["turn"] == 1
        found = await r.valet.sessions.get(LOCAL_TENANT, fork)
        assert (found.parent_id, found.parent_turn) == (session, 1)
        assert second


async def test_agents_that_share_a_system_prompt_are_kept_apart(run: Run) -> None:
    async with run() as r:
        system = {"role": "system", "content": "you are a helper of few words " * 8}
        found = set()
        for task in ("count the ships", "name the stars", "count the ships"):
            history = [system, *messages(task)]
            session, said, receipt = await _say(r, messages=history)
            assert receipt["turn"] == 1
            history += [*messages("x", said)[1:], *messages("more")]
            again, _, receipt = await _say(r, messages=history)
            assert (again, receipt["turn"]) == (session, 2)
            found.add(session)
        assert len(found) == 3


async def test_requests_at_once_get_sessions_of_their_own(run: Run) -> None:
    async with run() as r:
        session, said, _ = await _say(r, LONG)
        told = await asyncio.gather(*(_say(r, LONG, said, f"go on {i % 2}") for i in range(6)))
        sessions = [one for one, _, _ in told]
        assert sessions.count(session) == 1
        assert len(set(sessions)) == 6
        assert all(receipt["turn"] == (2 if one == session else 1) for one, _, receipt in told)


async def test_a_rewritten_history_stays_in_its_session_and_says_so(run: Run) -> None:
    async with run() as r:
        session, first, _ = await _say(r, "one " * 40)
        _, second, _ = await _say(r, "one " * 40, first, "two " * 40)
        again, _, receipt = await _say(r, "in short one", first, "two " * 40, second, "three")
        assert (again, receipt["turn"]) == (session, 3)
        changed = receipt["prefix_change"]
        assert changed["message"] == 0
        assert changed["at_token"] == 1
        assert changed["unusable_tokens"] > 0
        assert changed["text"].startswith("message 0 changed at token 1: ")
        assert receipt["miss"][-1]["reason"] == "prefix_changed"


async def test_a_named_session_says_what_changed_too(run: Run) -> None:
    async with run() as r:
        _, first, _ = await _say(r, "one " * 40, session_id="mine")
        _, _, receipt = await _say(r, "one " * 40, first, "two", session_id="mine")
        assert "prefix_change" not in receipt
        _, _, receipt = await _say(r, "one " * 40, "not this", "two", session_id="mine")
        assert receipt["prefix_change"]["message"] == 1


async def test_tenants_never_meet(run: Run) -> None:
    async with run(keys="k1,k2") as r:
        sessions = []
        said = ""
        for key in ("k1", "k2"):
            headers = {"authorization": f"Bearer {key}"}
            first = await r.chat(LONG, headers=headers)
            said = first["choices"][0]["message"]["content"]
            second = await r.chat(LONG, said, "go on", headers=headers)
            assert second["kv_receipt"]["turn"] == 2
            sessions.append(first["kv_receipt"]["session_id"])
        assert sessions[0] != sessions[1]
        headers = {"authorization": "Bearer k2"}
        other = await r.chat(LONG, said, "go on", headers=headers)
        assert other["kv_receipt"]["session_id"] not in sessions[:1]


async def test_a_session_is_known_again_after_a_restart(run: Run) -> None:
    async with run() as r:
        session, first, _ = await _say(r, LONG)
        disk = r.engine.disk
    async with run(disk) as r:
        again, _, receipt = await _say(r, LONG, first, "go on")
        assert (again, receipt["turn"]) == (session, 2)


async def test_hostile_messages_are_the_engines_to_refuse(run: Run) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    hostile: list[Any] = [
        7,
        [7, None, [], {}],
        [{"role": 7, "content": {}}],
        [{"role": "user", "content": deep}],
        [{"role": "assistant", "tool_calls": 7, "content": "\ud800"}],
        [{"role": "assistant", "tool_calls": [7, {"function": "x"}], "content": None}],
    ]
    async with run() as r:
        for path in (CHAT, "/v1/messages", "/v1/responses"):
            for given in hostile:
                body = {"messages": given, "input": given, "max_tokens": 4}
                raw = json.dumps(body).encode()
                answer = await r.client.post(path, content=raw)
                assert answer.status_code in (200, 400), answer.text


async def test_without_sessions_requests_just_pass(run: Run) -> None:
    async with run(settings={"VALET_SESSIONS": "off"}) as r:
        answer = await r.client.post(CHAT, json={"messages": messages(LONG), "session_id": "s"})
        assert answer.status_code == 200
        assert "x-session-id" not in answer.headers
        assert "kv_receipt" not in answer.json()
        assert (await r.get("/v1/sessions"))["data"] == []
    async with run(settings={"VALET_SESSIONS": "off"}, keys="k1,k2") as r:
        cached = []
        for key in ("k1", "k1", "k2"):
            headers = {"authorization": f"Bearer {key}"}
            answer = (await r.chat(LONG, headers=headers))["usage"]
            cached.append(answer["prompt_tokens_details"]["cached_tokens"])
        assert cached[0] == cached[2] == 0
        assert cached[1] > 0
