"""Quotas over HTTP, on the fake engine."""

import asyncio
import json
from typing import Any

import pytest
from app_harness import RawRequest, Run, Running, messages
from tenant_harness import BODIES, CHAT, LONG, bearer

from sessions.coordination.memory import MemoryCoordinator
from sessions.coordination.port import CoordinationLost, Rate
from sessions.sqlite import WAIT_S
from sessions.types import StateUnavailable


def still(r: Running) -> MemoryCoordinator:
    """Buckets that do not fill."""
    coordinator = MemoryCoordinator(lambda: 0.0)
    r.valet.tenants.limits._coordinator = coordinator
    return coordinator


@pytest.mark.parametrize("path", BODIES)
async def test_requests_a_minute(run: Run, path: str) -> None:
    async with run(keys="k1,k2", settings={"VALET_QUOTA_REQUESTS_PER_MINUTE": "2"}) as r:
        still(r)
        remaining = []
        for _ in range(2):
            answer = await r.client.post(path, json=BODIES[path], headers=bearer("k1"))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            remaining.append(answer.headers["x-ratelimit-remaining-requests"])
        assert remaining == ["1", "0"]
        answer = await r.client.post(path, json=BODIES[path], headers=bearer("k1"))
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
        error = answer.json()["error"]
        if path == "/v1/messages":
            assert answer.json()["type"] == "error"
            assert error["type"] == "rate_limit_error"
        else:
            assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        # The other tenant has a bucket of its own.
        await r.get("/v1/models", headers=bearer("k2"))


async def test_tokens_are_estimated_then_settled(run: Run) -> None:
    async with run(settings={"VALET_QUOTA_TOKENS_PER_MINUTE": "100"}) as r:
        still(r)

        async def remaining(**more: Any) -> int:
            answer = await r.client.post(CHAT, json=BODIES[CHAT] | more)
            await r.valet.desk.settle(5)
            return int(answer.headers["x-ratelimit-remaining-tokens"])

        size = len(json.dumps(BODIES[CHAT] | {"max_tokens": 50}, separators=(",", ":"))) // 4 + 1
        assert await remaining(max_tokens=50) == 100 - size - 50
        # Really it had a prompt of 15 and an answer of 8 tokens.
        size = len(json.dumps(BODIES[CHAT] | {"max_tokens": 2}, separators=(",", ":"))) // 4 + 1
        assert await remaining(max_tokens=2) == 100 - 23 - size - 2
        answer = await r.client.post(CHAT, json=BODIES[CHAT] | {"max_tokens": 10**9})
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) == 24  # 40 of 100 tokens flow in


async def test_what_is_refused_costs_no_tokens(run: Run) -> None:
    settings = {"VALET_QUOTA_TOKENS_PER_MINUTE": "200", "VALET_QUOTA_REQUESTS_PER_MINUTE": "100"}
    async with run(settings=settings) as r:
        still(r)
        refused: list[Any] = [
            BODIES[CHAT] | {"model": "other"},
            {"messages": "nonsense"},
            BODIES[CHAT] | {"session_id": 7},
            BODIES[CHAT] | {"max_tokens": None, "n": None},
            [],
        ]
        for body in refused:
            answer = await r.client.post(CHAT, json=body)
            assert answer.status_code in (200, 400, 404, 500)
        answer = await r.client.post(CHAT, content=b"{")
        await r.valet.desk.settle(5)
        # All that ran is the one whose max_tokens the engine might take.
        answer = await r.client.post(CHAT, json={"messages": messages("a")})
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) >= 200 - 23 - 15
        assert answer.headers["x-ratelimit-remaining-requests"] == "93"


async def test_tokens_are_charged_without_sessions_too(run: Run) -> None:
    settings = {"VALET_QUOTA_TOKENS_PER_MINUTE": "40", "VALET_SESSIONS": "off"}
    async with run(settings=settings) as r:
        still(r)
        answers = []
        for _ in range(3):
            answers.append(await r.client.post(CHAT, json=BODIES[CHAT] | {"max_tokens": 8}))
            await r.valet.desk.settle(5)
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        # 15 of the prompt and 8 of the answer are gone.
        assert answers[-1].headers["x-ratelimit-remaining-tokens"] == "17"


async def test_a_request_over_the_tokens_costs_no_request(run: Run) -> None:
    settings = {"VALET_QUOTA_TOKENS_PER_MINUTE": "30", "VALET_QUOTA_REQUESTS_PER_MINUTE": "5"}
    async with run(settings=settings) as r:
        still(r)
        remaining = []
        for _ in range(4):
            answer = await r.client.post(CHAT, json=BODIES[CHAT] | {"max_tokens": 30})
            await r.valet.desk.settle(5)
            remaining.append((answer.status_code, answer.headers["x-ratelimit-remaining-requests"]))
        assert remaining == [(200, "4"), (429, "3"), (429, "3"), (429, "3")]


async def test_a_coordinator_that_is_lost_holds_nobody_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> Any:
        raise CoordinationLost("gone")

    settings = {"VALET_QUOTA_TOKENS_PER_MINUTE": "1", "VALET_QUOTA_REQUESTS_PER_MINUTE": "1"}
    async with run(settings=settings) as r:
        coordinator = r.valet.tenants.limits._coordinator
        monkeypatch.setattr(coordinator, "charge", lost)
        monkeypatch.setattr(coordinator, "refund", lost)
        for _ in range(3):
            answer = await r.client.post(CHAT, json=BODIES[CHAT])
            assert answer.status_code == 200
            assert "x-ratelimit-limit-requests" not in answer.headers
        await r.valet.desk.settle(5)


async def test_a_client_that_leaves_pays_for_what_was_computed(run: Run) -> None:
    started, never = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        started.set()
        await never.wait()

    async with run(settings={"VALET_QUOTA_TOKENS_PER_MINUTE": "1000"}, pace=pace) as r:
        coordinator = still(r)
        request = RawRequest(CHAT, BODIES[CHAT] | {"max_tokens": 900})
        await request.run(r.valet.app, started.wait)
        await r.valet.desk.settle(5)
        charge = await coordinator.charge("tokens:local", 0, Rate(1000))
        assert charge.remaining == 1000 - 15


async def test_so_many_sessions(run: Run) -> None:
    async with run(keys="k1,k2", settings={"VALET_QUOTA_SESSIONS": "2"}) as r:
        for name in ("s1", "s2", "s1"):
            await r.chat(LONG, session_id=name, headers=bearer("k1"))
        for headers in (bearer("k1"), bearer("k1") | {"x-session-id": "s3"}):
            answer = await r.client.post(CHAT, json=BODIES[CHAT], headers=headers)
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "60"
            assert answer.json()["error"]["code"] == "session_quota_exceeded"
        await r.chat(LONG, session_id="s2", headers=bearer("k1"))
        await r.chat(LONG, session_id="s3", headers=bearer("k2"))
        answer = await r.client.delete("/v1/sessions/s1", headers=bearer("k1"))
        assert answer.status_code == 200
        await r.chat(LONG, session_id="s3", headers=bearer("k1"))
        # A fork is a new session as well.
        await r.post("/v1/sessions/s2/fork", expect=429, headers=bearer("k1"))
        await r.post("/v1/sessions/s3/fork", expect=201, headers=bearer("k2"))
        answer = await r.client.post(
            "/v1/messages", json=BODIES["/v1/messages"], headers=bearer("k1")
        )
        assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("failure", ["gone", "slow"])
async def test_sessions_are_not_refused_without_counting(
    run: Run, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr("sessions.tenancy.session_quota.WAIT_S", 0.0)
    async with run(settings={"VALET_QUOTA_SESSIONS": "1"}) as r:
        await r.chat(LONG, session_id="s1")
        quota = r.valet.tenants.session_quota

        async def count(*_: Any) -> int:
            if failure == "slow":
                await asyncio.sleep(WAIT_S)
            raise StateUnavailable("gone")

        monkeypatch.setattr("sessions.tenancy.repository.TenancyRepository.count_sessions", count)
        assert await quota.admits("local", "s2")
        for task in quota._looking:
            task.cancel()


async def test_a_tenant_sees_what_it_may_use_and_holds(run: Run) -> None:
    settings = {"VALET_QUOTA_SESSIONS": "9", "VALET_QUOTA_SSD": "1GiB"}
    async with run(keys="k1,k2", settings=settings) as r:
        for _ in range(2):
            await r.chat(LONG, session_id="s1", headers=bearer("k1"))
        mine = await r.get("/v1/tenant", headers=bearer("k1"))
        assert mine["quotas"] == {
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "sessions": 9,
            "dram": None,
            "ssd": 2**30,
            "device": None,
        }
        assert mine["sessions"] == 1
        assert mine["bytes_by_tier"]["ssd"] > 0
        served = mine["served"]
        assert (served["turns"], served["prompt_tokens"]) == (2, 30)
        assert served["reused_tokens"]["device"] == 12
        assert served["computed_tokens"] == 18
        other = await r.get("/v1/tenant", headers=bearer("k2"))
        assert other["name"] != mine["name"]
        assert (other["sessions"], other["served"]["turns"]) == (0, 0)
        assert set(other["bytes_by_tier"].values()) == {0}


async def test_bytes_over_the_quota_go_by_themselves(run: Run) -> None:
    """A session has 6 chunks of 4 KiB: there is room for two on the device, for three on SSD."""
    quotas = {"VALET_QUOTA_DEVICE": "50KiB", "VALET_QUOTA_SSD": "80KiB"}
    async with run(keys="k1,k2", settings=quotas) as r:

        async def talk(key: str, name: str) -> None:
            await r.chat(f"{key} {name} {LONG}", session_id=name, headers=bearer(key))

        async def held(key: str) -> tuple[int, int]:
            await r.valet.reaper.round()
            kv = [
                (await r.get(f"/v1/sessions/{one['id']}", headers=bearer(key)))["kv"]
                for one in (await r.get("/v1/sessions", headers=bearer(key)))["data"]
            ]
            tiers = ("device", "ssd")
            device, ssd = (sum(one["bytes_by_tier"][tier] for one in kv) // 4096 for tier in tiers)
            return device, ssd

        await talk("k2", "s0")
        for name in ("s1", "s2", "s3"):
            await talk("k1", name)
        assert await held("k1") == (12, 18)
        await talk("k1", "s4")
        assert await held("k1") == (12, 18)
        assert await held("k2") == (6, 6)
        happened = {}
        for name in ("s1", "s2", "s3", "s4"):
            events = await r.get(f"/v1/sessions/{name}/events", headers=bearer("k1"))
            happened[name] = [event["kind"] for event in reversed(events["data"])]
        assert happened == {
            "s1": ["created", "parked", "kv_dropped"],
            "s2": ["created", "parked"],
            "s3": ["created"],
            "s4": ["created"],
        }
