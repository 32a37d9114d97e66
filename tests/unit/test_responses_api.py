"""Stored responses over HTTP: what continues what, and who can have what."""

import json
from pathlib import Path
from typing import Any

import pytest
from app_harness import Run, Running, sse
from sqlalchemy.exc import DBAPIError

from engine.fake_cache import FakeDisk
from sessions.outage import Outage


async def create(
    running: Running, text: Any, expect: int = 200, headers: Any = None, **more: Any
) -> dict[str, Any]:
    body = {"model": "fake", "input": text} | more
    answer = await running.client.post("/v1/responses", json=body, headers=headers)
    assert answer.status_code == expect, answer.text
    return answer.json()


async def stream(running: Running, text: Any, **more: Any) -> list[dict[str, Any]]:
    body = {"model": "fake", "input": text, "stream": True} | more
    answer = await running.client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return sse(answer.text)


async def items_of(running: Running, response_id: str, **params: Any) -> dict[str, Any]:
    return await running.get(f"/v1/responses/{response_id}/input_items", params=params)


def text_of(response: dict[str, Any]) -> str:
    return response["output"][0]["content"][0]["text"]


async def test_a_response_continues_another_as_if_all_had_been_sent(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one two")
        second = await create(running, "three", previous_response_id=first["id"])
        whole = await create(
            running,
            [
                {"role": "user", "content": "one two"},
                {"role": "assistant", "content": text_of(first)},
                {"role": "user", "content": "three"},
            ],
            store=False,
        )
        assert text_of(second) == text_of(whole)
        assert second["previous_response_id"] == first["id"]
        assert (first["store"], whole["store"]) == (True, False)
        assert second["conversation"] is None
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0


async def test_a_continued_response_stays_in_its_session_and_a_second_one_forks(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one two three four five six")
        on = await create(running, "seven", previous_response_id=first["id"])
        again = await create(running, "seven", previous_response_id=first["id"])
        receipts = [r["kv_receipt"] for r in (first, on, again)]
        assert [r["turn"] for r in receipts] == [1, 2, 1]
        assert receipts[1]["session_id"] == receipts[0]["session_id"]
        fork = await running.get(f"/v1/sessions/{receipts[2]['session_id']}")
        assert fork["parent"] == {"id": receipts[0]["session_id"], "turn": 1}


async def test_instructions_are_not_inherited(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one", instructions="be brief")
        on = await create(running, "two", previous_response_id=first["id"])
        bare = await create(running, "one", store=False)
        assert text_of(bare) != text_of(first)
        assert on["usage"]["input_tokens"] < first["usage"]["input_tokens"] * 3
        assert on["kv_receipt"]["session_id"] == first["kv_receipt"]["session_id"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_can_be_had_again(run: Run, streamed: bool) -> None:
    async with run() as running:
        if streamed:
            events = await stream(running, "one two")
            assert {e["response"]["id"] for e in events if "response" in e} == {
                events[-1]["response"]["id"]
            }
            assert all(e["response"]["store"] for e in events if "response" in e)
            first = events[-1]["response"]
        else:
            first = await create(running, "one two")
        again = await running.get(f"/v1/responses/{first['id']}")
        first.pop("kv_receipt")
        assert again == first
        assert again["output"][0]["id"]


async def test_streams_say_what_they_continue(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one two three four")
        events = await stream(running, "five", previous_response_id=first["id"])
        plain = await create(running, "five", previous_response_id=first["id"])
        held = [event["response"] for event in events if "response" in event]
        assert len(held) == 2
        assert {r["previous_response_id"] for r in held} == {first["id"]}
        assert text_of(held[-1]) == text_of(plain)
        assert held[-1]["usage"]["input_tokens_details"]["cached_tokens"] > 0


async def test_a_response_outlives_a_restart(run: Run) -> None:
    disk = FakeDisk()
    async with run(disk) as running:
        first = await create(running, "one two three four")
    async with run(disk) as running:
        assert (await running.get(f"/v1/responses/{first['id']}"))["output"] == first["output"]
        on = await create(running, "five", previous_response_id=first["id"])
        assert on["kv_receipt"]["session_id"] == first["kv_receipt"]["session_id"]
        assert on["kv_receipt"]["turn"] == 2


async def test_what_is_not_to_be_stored_is_not(run: Run) -> None:
    async with run() as running:
        gone = await create(running, "one", store=False)
        assert gone["store"] is False
        await running.get(f"/v1/responses/{gone['id']}", expect=404)
        refused = await create(running, "two", expect=404, previous_response_id=gone["id"])
        assert refused["error"]["code"] == "previous_response_not_found"
        assert refused["error"]["param"] == "previous_response_id"


async def test_a_deleted_response_is_gone_for_all_but_those_after_it(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one")
        second = await create(running, "two", previous_response_id=first["id"])
        answer = await running.client.delete(f"/v1/responses/{first['id']}")
        assert answer.json() == {"id": first["id"], "object": "response", "deleted": True}
        await running.get(f"/v1/responses/{first['id']}", expect=404)
        await running.get(f"/v1/responses/{first['id']}/input_items", expect=404)
        await create(running, "x", expect=404, previous_response_id=first["id"])
        assert (await running.client.delete(f"/v1/responses/{first['id']}")).status_code == 404
        third = await create(running, "three", previous_response_id=second["id"])
        shown = [i["id"] for i in (await items_of(running, third["id"], order="asc"))["data"]]
        assert shown[1] == first["output"][0]["id"]


async def test_input_items_page_in_both_orders(run: Run) -> None:
    async with run() as running:
        given = [{"role": "user", "content": f"text {n}"} for n in range(5)]
        response = await create(running, given)
        whole = await items_of(running, response["id"], order="asc")
        assert [i["content"] for i in whole["data"]] == [
            [{"type": "input_text", "text": f"text {n}"}] for n in range(5)
        ]
        ids = [item["id"] for item in whole["data"]]
        assert (whole["first_id"], whole["last_id"], whole["has_more"]) == (ids[0], ids[-1], False)
        newest = await items_of(running, response["id"], limit=2)
        assert [i["id"] for i in newest["data"]] == [ids[4], ids[3]]
        assert newest["has_more"]
        rest = await items_of(running, response["id"], after=ids[3], limit=100)
        assert [i["id"] for i in rest["data"]] == [ids[2], ids[1], ids[0]]
        path = f"/v1/responses/{response['id']}/input_items"
        await running.get(path, expect=400, params={"after": "nothing"})
        await running.get(path, expect=400, params={"limit": 0})


async def test_other_tenants_have_nothing_of_it(run: Run) -> None:
    async with run(keys="ann,bob") as running:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
        first = await create(running, "one", headers=ann)
        path = f"/v1/responses/{first['id']}"
        await running.get(path, headers=ann)
        for method, end in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/input_items"),
        ):
            answer = await running.client.request(method, path + end, headers=bob)
            assert answer.status_code == 404, (method, end)
        await create(running, "two", expect=404, headers=bob, previous_response_id=first["id"])
        talk = await running.post("/v1/conversations", headers=ann, json={})
        path = f"/v1/conversations/{talk['id']}"
        for method, end in (("GET", ""), ("DELETE", ""), ("GET", "/items")):
            answer = await running.client.request(method, path + end, headers=bob)
            assert answer.status_code == 404, (method, end)
        await create(running, "two", expect=404, headers=bob, conversation=talk["id"])


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("previous_response_id", {"previous_response_id": "resp_a", "conversation": "conv_b"}),
        ("previous_response_id", {"previous_response_id": 7}),
        ("conversation", {"conversation": []}),
        ("conversation", {"conversation": {}}),
        ("store", {"store": "no"}),
        ("background", {"background": True}),
    ],
)
async def test_contradictions_are_refused(run: Run, param: str, fields: dict[str, Any]) -> None:
    async with run() as running:
        refused = await create(running, "one", expect=400, **fields)
        assert refused["error"]["param"] == param
        assert refused["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "name",
    ["resp_nothing", "", "a" * 5000, "nul\0", "\ud800", "ü"],
    ids=["unknown", "empty", "long", "nul", "half", "umlaut"],
)
async def test_ids_of_nothing_are_not_found(run: Run, name: str) -> None:
    async with run() as running:
        body = json.dumps({"input": "x", "previous_response_id": name})
        answer = await running.client.post("/v1/responses", content=body)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "previous_response_not_found"


async def test_the_client_does_not_choose_the_id(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one", request_id="resp_mine")
        assert first["id"] != "resp_mine"
        await running.get("/v1/responses/resp_mine", expect=404)


async def test_cancelling_answers_as_for_what_is_not_in_the_background(run: Run) -> None:
    async with run() as running:
        first = await create(running, "one")
        refused = await running.post(f"/v1/responses/{first['id']}/cancel", expect=400)
        assert refused["error"]["code"] == "response_not_cancellable"
        await running.post("/v1/responses/resp_none/cancel", expect=404)
        await running.get(f"/v1/responses/{first['id']}?stream=true", expect=400)


# --- conversations -------------------------------------------------------------------------------


async def test_a_conversation_collects_what_is_said_in_it(run: Run) -> None:
    async with run() as running:
        given = [{"type": "message", "role": "user", "content": "zero"}]
        talk = await running.post(
            "/v1/conversations", json={"items": given, "metadata": {"topic": "numbers"}}
        )
        assert (talk["object"], talk["metadata"]) == ("conversation", {"topic": "numbers"})
        first = await create(running, "one", conversation=talk["id"])
        second = await create(running, "two", conversation={"id": talk["id"]})
        assert first["conversation"] == second["conversation"] == {"id": talk["id"]}
        path = f"/v1/conversations/{talk['id']}/items"
        whole = await running.get(path, params={"order": "asc", "limit": 100})
        texts = [item["content"][0]["text"] for item in whole["data"]]
        assert texts == ["zero", "one", text_of(first), "two", text_of(second)]
        assert {item["status"] for item in whole["data"]} == {"completed"}
        receipts = [first["kv_receipt"], second["kv_receipt"]]
        assert receipts[0]["session_id"] == receipts[1]["session_id"]
        assert [r["turn"] for r in receipts] == [1, 2]
        shown = await items_of(running, second["id"], order="asc", limit=100)
        assert [i["id"] for i in shown["data"]] == [i["id"] for i in whole["data"][:4]]


async def test_what_is_not_stored_is_not_added_to_a_conversation(run: Run) -> None:
    async with run() as running:
        talk = await running.post("/v1/conversations")
        await create(running, "one", conversation=talk["id"], store=False)
        page = await running.get(f"/v1/conversations/{talk['id']}/items")
        assert page == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }


async def test_items_of_a_conversation_come_and_go(run: Run) -> None:
    async with run() as running:
        talk = await running.post("/v1/conversations", json={})
        path = f"/v1/conversations/{talk['id']}/items"
        items = [{"role": "user", "content": f"text {n}"} for n in range(3)]
        added = await running.post(path, json={"items": items})
        ids = [item["id"] for item in added["data"]]
        assert (await running.get(f"{path}/{ids[1]}"))["id"] == ids[1]
        answer = await running.client.delete(f"{path}/{ids[1]}")
        assert answer.json()["id"] == talk["id"]
        await running.get(f"{path}/{ids[1]}", expect=404)
        first = await running.get(path, params={"limit": 1})
        assert ([i["id"] for i in first["data"]], first["has_more"]) == ([ids[2]], True)
        rest = await running.get(path, params={"after": ids[2]})
        assert ([i["id"] for i in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        await running.get(path, expect=400, params={"after": ids[1]})
        seen = await create(running, "on", conversation=talk["id"])
        whole = await create(running, [items[0], items[2], {"role": "user", "content": "on"}])
        assert text_of(seen) == text_of(whole)


async def test_a_conversation_is_described_anew_and_deleted(run: Run) -> None:
    async with run() as running:
        talk = await running.post("/v1/conversations", json={"metadata": {"a": "b"}})
        path = f"/v1/conversations/{talk['id']}"
        new = await running.post(path, json={"metadata": {"c": "d"}})
        assert new == {**talk, "metadata": {"c": "d"}}
        assert await running.get(path) == new
        inside = await create(running, "one", conversation=talk["id"])
        gone = (await running.client.delete(path)).json()
        assert gone == {"id": talk["id"], "object": "conversation.deleted", "deleted": True}
        await running.get(path, expect=404)
        await create(running, "two", expect=404, conversation=talk["id"])
        await running.get(f"/v1/responses/{inside['id']}")
        # Its context is gone, and nothing is made up for it.
        await create(running, "three", expect=404, previous_response_id=inside["id"])


@pytest.mark.parametrize(
    "body",
    [
        {"items": [{"type": "item_reference", "id": "x"}]},
        {"items": [{"role": "nobody", "content": "x"}]},
        {"items": [7]},
        {"items": [{"role": "user", "content": "x"}] * 21},
        {"metadata": {str(n): "" for n in range(17)}},
        {"metadata": {"k" * 65: ""}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {"k": 1}},
    ],
)
async def test_what_cannot_be_in_a_conversation_is_refused(run: Run, body: dict[str, Any]) -> None:
    async with run() as running:
        refused = await running.post("/v1/conversations", expect=400, json=body)
        assert refused["error"]["type"] == "invalid_request_error"


# --- a database that is gone, limits -------------------------------------------------------------


async def test_without_the_database_what_continues_waits_and_the_rest_is_not_stored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run() as running:
        first = await create(running, "one")
        database = running.valet.sessions.units._database
        with monkeypatch.context() as broken:
            broken.setattr(database, "_engine", _Gone())
            broken.setattr(database, "_driver", None)
            broken.setattr(database, "_unreachable", Outage(0, lambda: 0))
            refused = await create(running, "two", expect=503, previous_response_id=first["id"])
            assert refused["error"]["code"] == "state_unavailable"
            await running.get(f"/v1/responses/{first['id']}", expect=503)
            lost = await create(running, "alone")
            assert lost["store"] is False
            assert text_of(lost)
            events = await stream(running, "alone")
            assert events[-1]["response"]["store"] is False
        # What was said not to be stored is not stored later either.
        await create(running, "two", previous_response_id=first["id"])
        await running.get(f"/v1/responses/{lost['id']}", expect=404)


class _Gone:
    def __getattr__(self, name: str) -> Any:
        raise DBAPIError("", None, OSError("gone"))


async def test_the_oldest_go_when_a_tenant_has_stored_too_much(run: Run) -> None:
    async with run(settings={"VALET_RESPONSES_LIMIT": "16KiB"}) as running:
        ids = []
        for n in range(24):
            ids.append((await create(running, f"number {n} " + "x" * 500))["id"])
        await running.get(f"/v1/responses/{ids[0]}", expect=404)
        await running.get(f"/v1/responses/{ids[-1]}")
        large = await create(running, "x" * 20_000)
        assert large["store"] is False
        await running.get(f"/v1/responses/{large['id']}", expect=404)


async def test_what_is_stored_shows_nothing_to_a_thief(run: Run, tmp_path: Path) -> None:
    async with run() as running:
        first = await create(running, "sesame", instructions="sesame", metadata={"k": "sesame"})
        await running.post(
            "/v1/conversations", json={"items": [{"role": "user", "content": "sesame"}]}
        )
        word = text_of(first).split()[0]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("valet.db*"))
    assert first["id"].encode() in stored
    assert b"sesame" not in stored
    assert word.encode() not in stored
