"""The audit trail of deletions over HTTP, on the fake engine."""

import time

import pytest
from app_harness import Run

from cache_tiers.types import ChunkKey, SessionKey
from engine.fake_cache import CHUNK_BYTES, FakeDisk

LONG = "one two three four five six seven eight nine ten eleven twelve"


async def test_a_deletion_is_listed_and_says_that_the_key_is_destroyed(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        before = time.time()
        gone = await r.client.delete("/v1/sessions/s1")
        freed = {"chunks": 5, "bytes": 5 * CHUNK_BYTES}
        assert gone.json() == {
            "id": "s1",
            "object": "session.deleted",
            "deleted": True,
            "key_destroyed": True,
            "freed": freed,
        }
        await r.get("/v1/sessions/s1", expect=404)
        audit = await r.get("/v1/audit")
        assert before <= audit["data"][0].pop("at") <= time.time()
        assert audit == {
            "object": "list",
            "data": [
                {
                    "object": "audit",
                    "session_id": "s1",
                    "action": "session_deleted",
                    "key_destroyed": True,
                    "freed": freed,
                }
            ],
            "has_more": False,
            "next": None,
        }


async def test_deleting_twice_is_404_and_one_row(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        assert (await r.client.delete("/v1/sessions/s1")).status_code == 200
        again = await r.client.delete("/v1/sessions/s1")
        assert again.status_code == 404
        assert again.json()["error"]["code"] == "session_not_found"
        assert len((await r.get("/v1/audit"))["data"]) == 1


async def test_a_session_without_a_key_says_so(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        r.engine.disk.wipe()
        assert (await r.client.delete("/v1/sessions/s1")).json()["key_destroyed"] is False
        (row,) = (await r.get("/v1/audit"))["data"]
        assert (row["action"], row["key_destroyed"]) == ("session_deleted", False)
        assert row["freed"] == {"chunks": 0, "bytes": 0}


async def test_a_failing_engine_leaves_the_session_and_no_row(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        r.engine.die()
        refused = await r.client.delete("/v1/sessions/s1")
        assert refused.status_code == 503
        assert [s["id"] for s in (await r.get("/v1/sessions"))["data"]] == ["s1"]
        assert (await r.get("/v1/audit"))["data"] == []


async def test_rows_outlive_a_restart_that_adds_its_own(run: Run) -> None:
    disk = FakeDisk()
    async with run(disk) as r:
        await r.chat(LONG, session_id="s1")
        await r.client.delete("/v1/sessions/s1")
    orphan = ChunkKey(b"o" * 32)
    disk.put(SessionKey("local/orphan"), [orphan])
    async with run(disk) as r:
        rows = (await r.get("/v1/audit"))["data"]
    assert [(row["session_id"], row["action"], row["key_destroyed"]) for row in rows] == [
        ("orphan", "kv_dropped", True),
        ("s1", "session_deleted", True),
    ]


async def test_a_tenant_sees_its_own_rows_only(run: Run) -> None:
    async with run(keys="alice-key,bob-key") as r:
        alice, bob = {"authorization": "Bearer alice-key"}, {"x-api-key": "bob-key"}
        for headers in (alice, bob):
            await r.chat(LONG, session_id="same", headers=headers)
        await r.client.delete("/v1/sessions/same", headers=alice)
        assert len((await r.get("/v1/audit", headers=alice))["data"]) == 1
        assert (await r.get("/v1/audit", headers=bob))["data"] == []
        error = (await r.get("/v1/audit", expect=401))["error"]
        assert error["code"] == "invalid_api_key"


async def test_rows_come_in_pages_newest_first(run: Run) -> None:
    async with run() as r:
        for number in range(3):
            await r.chat(LONG, session_id=f"s{number}")
            await r.client.delete(f"/v1/sessions/s{number}")
        first = await r.get("/v1/audit?limit=2")
        assert [row["session_id"] for row in first["data"]] == ["s2", "s1"]
        assert first["has_more"] is True
        rest = await r.get("/v1/audit", params={"limit": 2, "after": first["next"]})
        assert [row["session_id"] for row in rest["data"]] == ["s0"]
        assert (rest["has_more"], rest["next"]) == (False, None)


@pytest.mark.parametrize(("query", "param"), [("limit=0", "limit"), ("after=nonsense", "after")])
async def test_bad_parameters(run: Run, query: str, param: str) -> None:
    async with run() as r:
        error = (await r.get(f"/v1/audit?{query}", expect=400))["error"]
        assert error["param"] == param
