"""A session's life over HTTP, on the fake engine."""

import asyncio

import pytest
from app_harness import Run

from engine.fake_cache import FakeDisk
from sessions.upkeep.reaper import Reaper

LONG = "one two three four five six seven eight nine ten eleven twelve"


async def test_second_turn_reuses_the_first(run: Run) -> None:
    async with run() as r:
        first = await r.chat(LONG, session_id="s1")
        reply = first["choices"][0]["message"]["content"]
        assert first["kv_receipt"]["turn"] == 1
        assert first["kv_receipt"]["computed_tokens"] == first["usage"]["prompt_tokens"]
        assert first["kv_receipt"]["miss"] == [
            {"reason": "new_session", "at_token": 0, "tokens": 15}
        ]
        second = await r.chat(LONG, reply, "and then", session_id="s1")
        receipt = second["kv_receipt"]
        assert receipt["turn"] == 2
        assert receipt["reused_tokens"]["device"] == 20
        assert receipt["miss"][0]["reason"] == "appended"
        assert sum(receipt["reused_tokens"].values()) + receipt["computed_tokens"] == 28


async def test_park_prefetch_resume(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        parked = await r.post("/v1/sessions/s1/park")
        assert parked["state"] == "parked"
        assert parked["kv"]["tokens_by_tier"] == {"device": 0, "dram": 0, "ssd": 20}
        fetched = await r.post("/v1/sessions/s1/prefetch", json={"tier": "dram"})
        assert fetched["state"] == "idle"
        assert fetched["prefetched"] == {"tokens": 20, "complete": True}
        receipt = (await r.chat(LONG, session_id="s1"))["kv_receipt"]
        assert receipt["reused_tokens"] == {"device": 0, "dram": 0, "ssd": 12}
        assert receipt["prefetched_tokens"] == 12
        assert receipt["bytes_loaded"] > 0


async def test_restart_restores_from_disk(run: Run) -> None:
    disk = FakeDisk()
    async with run(disk) as r:
        await r.chat(LONG, session_id="s1")
    async with run(disk) as r:
        assert (await r.get("/v1/sessions/s1"))["state"] == "parked"
        receipt = (await r.chat(LONG, session_id="s1"))["kv_receipt"]
        assert receipt["turn"] == 2
        assert receipt["reused_tokens"]["ssd"] == 12


async def test_corrupt_chunk_is_a_miss(run: Run) -> None:
    disk = FakeDisk()
    async with run(disk) as r:
        answer = await r.chat(LONG, session_id="s1")
    disk.damage(next(iter(disk.manifests)), 1)
    async with run(disk) as r:
        again = await r.chat(LONG, session_id="s1")
    assert again["choices"] == answer["choices"]
    assert again["kv_receipt"]["reused_tokens"]["ssd"] == 4
    assert again["kv_receipt"]["miss"][0]["reason"] == "corrupt_chunk"


async def test_lost_kv_is_evicted_and_other_fingerprint_says_so(run: Run) -> None:
    async with run(fingerprint="f1") as r:
        await r.chat(LONG, session_id="s1")
    async with run(fingerprint="f1") as r:
        again = await r.chat(LONG, session_id="s1")
        assert again["kv_receipt"]["miss"][0]["reason"] == "evicted"
    async with run(fingerprint="f2") as r:
        again = await r.chat(LONG, session_id="s1")
        assert again["kv_receipt"]["miss"][0]["reason"] == "fingerprint_changed"


async def test_turns_are_listed_with_their_receipts(run: Run) -> None:
    async with run() as r:
        answers = [await r.chat(LONG, session_id="s1") for _ in range(3)]
        page = await r.get("/v1/sessions/s1/turns?limit=2")
        assert page["has_more"] is True
        assert [t["turn"] for t in page["data"]] == [3, 2]
        assert page["data"][0]["kv_receipt"] == answers[2]["kv_receipt"]
        rest = await r.get("/v1/sessions/s1/turns", params={"after": page["next"]})
        assert [t["turn"] for t in rest["data"]] == [1]
        assert rest["has_more"] is False


async def test_sessions_are_listed_by_page_and_state(run: Run) -> None:
    async with run() as r:
        for number in range(5):
            await r.chat(LONG, session_id=f"s{number}")
        await r.post("/v1/sessions/s2/park")
        seen, after = [], None
        for _ in range(3):
            page = await r.get(
                "/v1/sessions", params={"limit": 2} | ({"after": after} if after else {})
            )
            assert page["object"] == "list"
            seen += [s["id"] for s in page["data"]]
            after = page["next"]
        assert after is None
        assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]
        parked = await r.get("/v1/sessions?state=parked")
        assert [s["id"] for s in parked["data"]] == ["s2"]


async def test_delete_forgets_everywhere(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        gone = await r.client.delete("/v1/sessions/s1")
        assert gone.json()["deleted"] is True
        assert gone.json()["freed"]["chunks"] == 5
        assert (await r.get("/v1/sessions/s1", expect=404))["error"]["code"] == "session_not_found"
        assert not r.engine.disk.chunks


async def test_shared_prefix_survives_the_others_end(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        await r.chat(LONG, session_id="s2")
        await r.post("/v1/sessions/s1/park")
        kv = (await r.get("/v1/sessions/s2"))["kv"]
        assert kv["tokens_by_tier"]["device"] == 20
        await r.client.delete("/v1/sessions/s1")
        assert (await r.get("/v1/sessions/s2"))["kv"]["ssd_complete"] is True


async def test_tenants_see_only_their_own(run: Run) -> None:
    async with run(keys="alice-key,bob-key") as r:
        alice, bob = {"authorization": "Bearer alice-key"}, {"x-api-key": "bob-key"}
        await r.chat(LONG, session_id="s1", headers=alice)
        for method, path in [
            ("GET", "/v1/sessions/s1"),
            ("GET", "/v1/sessions/s1/turns"),
            ("POST", "/v1/sessions/s1/park"),
            ("POST", "/v1/sessions/s1/prefetch"),
            ("DELETE", "/v1/sessions/s1"),
        ]:
            assert (await r.client.request(method, path, headers=bob)).status_code == 404
        assert (await r.get("/v1/sessions", headers=bob))["data"] == []
        assert len((await r.get("/v1/sessions", headers=alice))["data"]) == 1
        # The same id and text of another tenant is another session and finds no KV.
        other = await r.chat(LONG, session_id="s1", headers=bob)
        assert other["kv_receipt"]["turn"] == 1
        assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/v1/sessions?limit=0", "limit"),
        ("GET", "/v1/sessions?state=asleep", "state"),
        ("GET", "/v1/sessions?after=nonsense", "after"),
        ("POST", "/v1/sessions/s1/prefetch", "tier"),
    ],
)
async def test_bad_parameters(run: Run, method: str, path: str, param: str) -> None:
    async with run() as r:
        body = {"tier": "tape"} if method == "POST" else None
        answer = await r.client.request(method, path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_dead_engine_is_503_for_commands(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        r.engine.die()
        error = (await r.post("/v1/sessions/s1/park", expect=503))["error"]
        assert error["code"] == "engine_unavailable"
        assert (await r.get("/v1/sessions"))["data"][0]["state"] == "idle"


async def test_no_chore_holds_up_the_heartbeat(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, beats = asyncio.Event(), asyncio.Event()

    async def hangs(_: Reaper) -> None:
        busy.set()
        await asyncio.Event().wait()

    async def beat(*_: object) -> None:
        if busy.is_set():
            beats.set()

    monkeypatch.setattr(Reaper, "round", hangs)
    monkeypatch.setattr("sessions.upkeep.heartbeat.beat", beat)
    monkeypatch.setattr("app.main.SETTLE_S", 0)
    async with run(), asyncio.timeout(10):
        await beats.wait()
