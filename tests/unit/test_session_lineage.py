"""Forks, checkpoints and rollbacks over HTTP, on the fake engine."""

from typing import Any

import pytest
from app_harness import Run, Running

LONG = "one two three four five six seven eight nine ten eleven twelve"


async def talk(r: Running, turns: int, session_id: str = "s1") -> list[str]:
    """A conversation of so many turns; all its texts."""
    texts: list[str] = []
    for turn in range(turns):
        texts.append(LONG if turn == 0 else f"and then {turn}")
        answer = await r.chat(*texts, session_id=session_id)
        texts.append(answer["choices"][0]["message"]["content"])
    return texts


async def kinds(r: Running, session_id: str = "s1") -> list[str]:
    events = (await r.get(f"/v1/sessions/{session_id}/events?limit=100"))["data"]
    return [event["kind"] for event in reversed(events)]


async def test_a_fork_shares_everything_up_to_its_turn(run: Run) -> None:
    async with run() as r:
        texts = await talk(r, 2)
        chunks = len(r.engine.disk.chunks)
        fork = await r.post("/v1/sessions/s1/fork", json={"turn": 1, "id": "f1"}, expect=201)
        assert (fork["id"], fork["parent"]) == ("f1", {"id": "s1", "turn": 1})
        assert (fork["turns"], fork["head_turn"]) == (0, 0)
        turns = (await r.get("/v1/sessions/s1/turns"))["data"]
        first = turns[1]["prompt_tokens"] + turns[1]["output_tokens"]
        assert fork["tokens"] == first
        assert fork["shared_tokens"] == first // 4 * 4
        assert len(r.engine.disk.chunks) == chunks
        answer = await r.chat(*texts[:2], "another way", session_id="f1")
        receipt = answer["kv_receipt"]
        assert receipt["turn"] == 1
        assert sum(receipt["reused_tokens"].values()) >= fork["shared_tokens"] - 4


async def test_a_fork_goes_on_without_its_parent(run: Run) -> None:
    async with run() as r:
        texts = await talk(r, 1)
        fork = await r.post("/v1/sessions/s1/fork", expect=201)
        assert (await r.client.delete("/v1/sessions/s1")).status_code == 200
        answer = await r.chat(*texts, "and then", session_id=fork["id"])
        assert sum(answer["kv_receipt"]["reused_tokens"].values()) >= fork["shared_tokens"] - 4
        assert (await r.get(f"/v1/sessions/{fork['id']}"))["parent"]["id"] == "s1"


async def test_a_fork_of_a_parked_session_is_parked(run: Run) -> None:
    async with run() as r:
        await talk(r, 1)
        await r.post("/v1/sessions/s1/park")
        fork = await r.post("/v1/sessions/s1/fork", expect=201)
        assert fork["state"] == "parked"
        assert fork["shared_tokens"] > 0
        kv = (await r.get(f"/v1/sessions/{fork['id']}"))["kv"]
        assert kv["tokens_by_tier"]["ssd"] == fork["shared_tokens"]


async def test_children_are_counted_and_listed(run: Run) -> None:
    async with run() as r:
        await talk(r, 1)
        for name in ("f1", "f2", "f3"):
            await r.post("/v1/sessions/s1/fork", json={"id": name}, expect=201)
        await r.post("/v1/sessions/f1/fork", json={"id": "g1"}, expect=201)
        assert (await r.get("/v1/sessions/s1"))["children"] == 3
        page = await r.get("/v1/sessions/s1/forks?limit=2")
        rest = await r.get("/v1/sessions/s1/forks", params={"after": page["next"]})
        assert {s["id"] for s in page["data"] + rest["data"]} == {"f1", "f2", "f3"}
        grandchild = await r.get("/v1/sessions/g1")
        assert grandchild["parent"] == {"id": "f1", "turn": 0}
        assert grandchild["tokens"] == (await r.get("/v1/sessions/s1"))["tokens"]
        assert await kinds(r, "f1") == ["created", "forked", "forked"]


async def test_a_dead_engine_shares_nothing_and_forks_all_the_same(run: Run) -> None:
    async with run() as r:
        await talk(r, 1)
        r.engine.die()
        fork = await r.post("/v1/sessions/s1/fork", expect=201)
        assert (fork["shared_tokens"], fork["state"]) == (0, "idle")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"turn": 3}, 404, "turn_not_found"),
        ({"turn": -1}, 400, "invalid_parameter"),
        ({"turn": "1"}, 400, "invalid_parameter"),
        ({"id": "s1"}, 409, "session_exists"),
        ({"id": "no spaces"}, 400, "invalid_parameter"),
        ({"id": ".."}, 400, "invalid_parameter"),
        ({"name": "x"}, 400, "invalid_parameter"),
    ],
)
async def test_forks_that_cannot_be(run: Run, body: dict[str, Any], status: int, code: str) -> None:
    async with run() as r:
        await talk(r, 2)
        error = (await r.post("/v1/sessions/s1/fork", json=body, expect=status))["error"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}
        assert len((await r.get("/v1/sessions"))["data"]) == 1


async def test_rollback_continues_from_the_earlier_turn(run: Run) -> None:
    async with run() as r:
        texts = await talk(r, 3)
        before = await r.get("/v1/sessions/s1/turns")
        first = before["data"][2]
        back = await r.post("/v1/sessions/s1/rollback", json={"turn": 1})
        assert back["head_turn"] == 1
        assert back["tokens"] == first["prompt_tokens"] + first["output_tokens"]
        assert (await r.get("/v1/sessions/s1"))["kv"]["tokens"] == back["tokens"] // 4 * 4
        answer = await r.chat(*texts[:2], "another way", session_id="s1")
        assert answer["kv_receipt"]["turn"] == 4
        after = await r.get("/v1/sessions/s1/turns")
        assert [(t["turn"], t["rolled_back"]) for t in after["data"]] == [
            (4, False),
            (3, True),
            (2, True),
            (1, False),
        ]
        assert (await r.get("/v1/sessions/s1"))["head_turn"] == 4
        # What was rolled back is no place to go to any more.
        for verb in ("rollback", "fork"):
            error = await r.post(f"/v1/sessions/s1/{verb}", json={"turn": 2}, expect=404)
            assert error["error"]["code"] == "turn_not_found"
        assert (await kinds(r))[:2] == ["created", "rolled_back"]


async def test_rollback_to_the_beginning(run: Run) -> None:
    async with run() as r:
        await talk(r, 2)
        back = await r.post("/v1/sessions/s1/rollback", json={"turn": 0})
        assert (back["head_turn"], back["tokens"], back["turns"]) == (0, 0, 2)
        assert (await r.get("/v1/sessions/s1"))["kv"]["tokens"] == 0
        assert (await talk(r, 1))[1]
        assert (await r.get("/v1/sessions/s1"))["head_turn"] == 3


async def test_checkpoints_name_places(run: Run) -> None:
    async with run() as r:
        await talk(r, 1)
        made = await r.post("/v1/sessions/s1/checkpoints", json={"name": "plan"}, expect=201)
        assert (made["name"], made["turn"]) == ("plan", 1)
        await talk(r, 3)
        await r.post("/v1/sessions/s1/checkpoints", json={"name": "later"}, expect=201)
        listed = await r.get("/v1/sessions/s1/checkpoints")
        assert [(c["name"], c["turn"]) for c in listed["data"]] == [("plan", 1), ("later", 4)]
        back = await r.post("/v1/sessions/s1/rollback", json={"checkpoint": "plan"})
        assert back["head_turn"] == 1
        listed = await r.get("/v1/sessions/s1/checkpoints")
        assert [c["name"] for c in listed["data"]] == ["plan"]
        gone = await r.client.delete("/v1/sessions/s1/checkpoints/plan")
        assert gone.json()["deleted"] is True
        assert (await r.get("/v1/sessions/s1/checkpoints"))["data"] == []
        rolled = (await r.get("/v1/sessions/s1/events"))["data"][1]
        assert rolled["details"] == {"from_turn": 4, "to_turn": 1, "checkpoints_removed": 1}
        expected = ["created", "checkpoint", "checkpoint", "rolled_back", "checkpoint_deleted"]
        assert [k for k in await kinds(r) if k != "rewritten"] == expected


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("checkpoints", {"name": "taken"}, 409, "checkpoint_exists"),
        ("checkpoints", {"name": "a/b"}, 400, "invalid_parameter"),
        ("checkpoints", {"name": "x" * 65}, 400, "invalid_parameter"),
        ("checkpoints", {"name": "new", "turn": 2}, 404, "turn_not_found"),
        ("checkpoints", {}, 400, "invalid_parameter"),
        ("rollback", {"turn": 2}, 404, "turn_not_found"),
        ("rollback", {"checkpoint": "nowhere"}, 404, "checkpoint_not_found"),
        ("rollback", {}, 400, "invalid_parameter"),
        ("rollback", {"turn": 1, "checkpoint": "taken"}, 400, "invalid_parameter"),
    ],
)
async def test_places_that_cannot_be(
    run: Run, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    async with run() as r:
        await talk(r, 1)
        await r.post("/v1/sessions/s1/checkpoints", json={"name": "taken"}, expect=201)
        error = (await r.post(f"/v1/sessions/s1/{path}", json=body, expect=status))["error"]
        assert error["code"] == code


async def test_a_session_has_a_bounded_number_of_checkpoints(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.checkpoints.MAX_CHECKPOINTS", 2)
    async with run() as r:
        await talk(r, 1)
        for name in ("a", "b"):
            await r.post("/v1/sessions/s1/checkpoints", json={"name": name}, expect=201)
        error = await r.post("/v1/sessions/s1/checkpoints", json={"name": "c"}, expect=409)
        assert error["error"]["code"] == "too_many_checkpoints"


async def test_other_tenants_lineage_is_not_there(run: Run) -> None:
    async with run(keys="alice-key,bob-key") as r:
        alice, bob = {"authorization": "Bearer alice-key"}, {"x-api-key": "bob-key"}
        await r.chat(LONG, session_id="s1", headers=alice)
        made = {"name": "c"}
        await r.post("/v1/sessions/s1/checkpoints", json=made, headers=alice, expect=201)
        for method, path, body in [
            ("POST", "fork", {}),
            ("GET", "forks", None),
            ("POST", "rollback", {"turn": 0}),
            ("POST", "rollback", {"checkpoint": "c"}),
            ("POST", "checkpoints", {"name": "d"}),
            ("GET", "checkpoints", None),
            ("DELETE", "checkpoints/c", None),
            ("GET", "events", None),
            ("POST", "pin", {"ttl_s": 60}),
            ("POST", "unpin", {}),
            ("PATCH", "", {"ttl_s": 60}),
        ]:
            url = f"/v1/sessions/s1/{path}".rstrip("/")
            answer = await r.client.request(method, url, json=body, headers=bob)
            assert answer.status_code == 404, (method, path)
            assert answer.json()["error"]["code"] == "session_not_found"
