"""Tenants that try to reach another's, over HTTP, on the fake engine."""

import json
from typing import Any

import httpx
import pytest
from app_harness import Run, Running
from tenant_harness import BODIES, LONG, bearer

from app.layer import SessionLayer
from engine.fake import FakeEngine
from engine.port import TurnContext, current_turn

WISHES: list[dict[str, Any]] = [
    {"cache_salt": "mine"},
    {"cache_salt": None},
    {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [1]}},
    {"ec_transfer_params": {"a": 1}},
    {"vllm_xargs": {"cache_salt": "mine", "session_id": "t/s", "kv_transfer_params": "x"}},
    {"vllm_xargs": {"session_id": "other/s1", "allowed": 1}},
    {"extra_body": {"cache_salt": "mine"}, "metadata": {"cache_salt": "mine"}},
]


@pytest.mark.parametrize("path", BODIES)
async def test_salts_are_the_servers(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TurnContext] = []
    bodies: list[dict[str, Any]] = []
    generate = FakeEngine.generate

    def noting(self: FakeEngine, *arguments: Any) -> Any:
        turn = current_turn.get()
        assert turn is not None
        seen.append(turn)
        return generate(self, *arguments)

    monkeypatch.setattr(FakeEngine, "generate", noting)
    async with run(keys="k1,k2") as r:
        layer: SessionLayer = r.valet.app
        app = layer._app

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            bodies.append(json.loads(message["body"]))
            pending = [message]

            async def again() -> Any:
                return pending.pop() if pending else await receive()

            await app(scope, again, send)

        monkeypatch.setattr(layer, "_app", reading)
        for wish in ({}, *WISHES):
            headers = {**bearer("k1"), "x-session-id": "s1", "x-request-id": "same"}
            answer = await r.client.post(path, json=BODIES[path] | wish, headers=headers)
            assert answer.status_code == 200, answer.text
        assert len({turn.cache_salt for turn in seen}) == 1
        assert len({turn.session for turn in seen}) == 1
        # The same name, asked for by another tenant, is another session under another salt.
        answer = await r.client.post(
            path, json=BODIES[path], headers=bearer("k2") | {"x-session-id": "s1"}
        )
        assert answer.json()["kv_receipt"]["reused_tokens"] == {"device": 0, "dram": 0, "ssd": 0}
        assert seen[-1].cache_salt != seen[0].cache_salt
        assert seen[-1].session != seen[0].session
    for body in bodies:
        reached = body | (body.get("vllm_xargs") or {})
        assert not {"cache_salt", "session_id", "kv_transfer_params", "ec_transfer_params"} & set(
            reached
        )


ITEM = {"type": "message", "role": "user", "content": "hello"}
USEFUL: dict[str, dict[str, Any]] = {
    "checkpoints": {"name": "other"},
    "items": {"items": [ITEM]},
    "pin": {"ttl_s": 60},
    "rollback": {"turn": 0},
    "{conversation_id}": {"metadata": {}},
    "{session_id}": {"ttl_s": 60},
    "expect": {"in_s": 5},
}
"""Bodies that would be taken, by the last part of the path."""


def _comparable(answer: httpx.Response, asked: dict[str, str]) -> tuple[int, str, Any]:
    """An answer without the names that were asked for, and without the time."""
    text = answer.text
    for name in asked.values():
        text = text.replace(name, "NAME")
    headers = sorted((k, v) for k, v in answer.headers.items() if k != "date")
    return answer.status_code, text, headers


async def _belongings(r: Running, key: str) -> dict[str, str]:
    """Something of every kind that has a name, by the parameter of its routes."""
    headers = bearer(key)
    await r.chat(LONG, session_id="guess-me", headers=headers)
    await r.post(
        "/v1/sessions/guess-me/checkpoints", expect=201, json={"name": "mark"}, headers=headers
    )
    response = await r.post("/v1/responses", json=BODIES["/v1/responses"], headers=headers)
    await r.valet.desk.settle(5)
    conversation = await r.post("/v1/conversations", json={"items": [ITEM]}, headers=headers)
    items = await r.get(f"/v1/conversations/{conversation['id']}/items", headers=headers)
    return {
        "session_id": "guess-me",
        "name": "mark",
        "response_id": response["id"],
        "conversation_id": conversation["id"],
        "item_id": items["data"][0]["id"],
    }


async def test_what_is_anothers_is_as_if_it_were_not(run: Run) -> None:
    """Every route with a name in it, those included that are yet to be thought of."""
    async with run(keys="k1,k2") as r:
        theirs = await _belongings(r, "k1")
        nobodys = {kind: name[:-2] + "zz" for kind, name in theirs.items()}
        asked = []
        for path, methods in r.valet.engine_app.openapi()["paths"].items():
            if "{" not in path or path.startswith("/v1/models"):
                continue
            body = USEFUL.get(path.rpartition("/")[2], {})
            for method in methods:
                answers = []
                for names in (theirs, nobodys):
                    answer = await r.client.request(
                        method.upper(),
                        path.format(**names),
                        json=body if method in ("post", "patch") else None,
                        headers=bearer("k2"),
                    )
                    answers.append(_comparable(answer, names))
                assert answers[0] == answers[1], (method, path)
                assert answers[0][0] == 404, (method, path, answers[0])
                asked.append((method, path))
        assert len(asked) >= 24
        # What goes on from another's goes on from nothing.
        for field in ("previous_response_id", "conversation"):
            kind = field.replace("previous_", "").removesuffix("_id") + "_id"
            answers = []
            for names in (theirs, nobodys):
                answer = await r.client.post(
                    "/v1/responses",
                    json=BODIES["/v1/responses"] | {field: names[kind]},
                    headers=bearer("k2"),
                )
                answers.append(_comparable(answer, names))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        for listed in ("/v1/sessions", "/v1/audit"):
            assert (await r.get(listed, headers=bearer("k2")))["data"] == []
        # And its owner has all of it still.
        mine = await r.get("/v1/sessions/guess-me", headers=bearer("k1"))
        assert (mine["state"], mine["turns"]) == ("idle", 1)
        await r.get(f"/v1/responses/{theirs['response_id']}", headers=bearer("k1"))
        path = "/v1/conversations/{conversation_id}/items/{item_id}".format(**theirs)
        await r.get(path, headers=bearer("k1"))


async def test_a_deleted_session_is_like_anothers_and_like_none(run: Run) -> None:
    async with run(keys="k1,k2") as r:
        await r.chat(LONG, session_id="of-k2-1", headers=bearer("k2"))
        await r.chat(LONG, session_id="deleted", headers=bearer("k1"))
        await r.client.delete("/v1/sessions/deleted", headers=bearer("k1"))
        answers = {
            _comparable(
                await r.client.get(f"/v1/sessions/{name}", headers=bearer("k1")), {"id": name}
            )[:2]
            for name in ("deleted", "of-k2-1", "nothing")
        }
        assert len(answers) == 1
