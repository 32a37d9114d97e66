"""Pins, terms and events over HTTP, and what a request's own fields ask for."""

from typing import Any

import pytest
from app_harness import Run, Running

from app.leases import BadLease, Wish, wish_of
from app.wire import Api
from cache_tiers.types import Tier
from engine.fake_cache import FakeDisk

LONG = "one two three four five six seven eight nine ten eleven twelve"
ROOM = {"VALET_DRAM": "64KiB", "VALET_DEVICE_KV": "64KiB", "VALET_PIN_SHARE": "0.5"}
"""Of the fake engine's chunks of 4 KiB, a tenant may pin eight in DRAM, and on the device."""


async def events(r: Running, session_id: str = "s1") -> list[tuple[str, dict[str, Any]]]:
    found = (await r.get(f"/v1/sessions/{session_id}/events?limit=100"))["data"]
    return [(event["kind"], event["details"]) for event in reversed(found)]


async def pins(r: Running, session_id: str = "s1") -> list[tuple[str, int, str]]:
    found = (await r.get(f"/v1/sessions/{session_id}"))["pins"]
    return [(pin["tier"], pin["ttl_s"], pin["source"]) for pin in found]


async def test_pin_and_unpin(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        pin = await r.post("/v1/sessions/s1/pin", json={"tier": "device", "ttl_s": 60})
        assert (pin["tier"], pin["ttl_s"], pin["source"]) == ("device", 60, "api")
        assert pin["expires_at"] - pin["created_at"] == 60
        assert pin["bytes"] == (await r.get("/v1/sessions/s1"))["kv"]["bytes_by_tier"]["device"]
        await r.post("/v1/sessions/s1/pin", json={"tier": "ssd", "ttl_s": 90})
        assert await pins(r) == [("device", 60, "api"), ("ssd", 90, "api")]
        one = await r.post("/v1/sessions/s1/unpin", json={"tier": "ssd"})
        assert one["tiers"] == ["ssd"]
        assert (await r.post("/v1/sessions/s1/unpin"))["tiers"] == ["device"]
        assert (await r.post("/v1/sessions/s1/unpin"))["tiers"] == []
        assert await pins(r) == []
        usage = {one.tenant: one.pinned_by_tier for one in await r.engine.usage()}
        assert not any(sum(by_tier.values()) for by_tier in usage.values())
        assert [kind for kind, _ in await events(r)] == ["created", *["pinned"] * 2] + [
            "unpinned"
        ] * 2


async def test_the_share_is_each_tenants_own(run: Run) -> None:
    async with run(settings=ROOM, keys="alice-key,bob-key") as r:
        wish = {"tier": "device", "ttl_s": 60}
        for name in ("alice", "bob"):
            headers = {"authorization": f"Bearer {name}-key"}
            await r.chat(LONG, session_id="s1", headers=headers)
            await r.post("/v1/sessions/s1/pin", json=wish, headers=headers)


async def test_over_budget_is_429_and_says_when(run: Run) -> None:
    async with run(settings=ROOM) as r:
        for name in ("s1", "s2"):
            await r.chat(f"{name} {LONG}", session_id=name)
        await r.post("/v1/sessions/s1/pin", json={"tier": "device", "ttl_s": 60})
        refused = await r.client.post("/v1/sessions/s2/pin", json={"tier": "device", "ttl_s": 60})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        error = refused.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == "pin_budget_exceeded"
        assert await pins(r, "s2") == []
        assert (await events(r, "s2"))[-1][0] == "pin_refused"
        # The same session may renew what it has.
        await r.post("/v1/sessions/s1/pin", json={"tier": "device", "ttl_s": 90})
        await r.post("/v1/sessions/s1/unpin")
        await r.post("/v1/sessions/s2/pin", json={"tier": "device", "ttl_s": 60})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tier": "tape", "ttl_s": 60}, "tier"),
        ({"tier": "dram"}, "ttl_s"),
        ({"tier": "dram", "ttl_s": 0}, "ttl_s"),
        ({"tier": "ssd", "ttl_s": 60}, "tier"),
    ],
)
async def test_pins_that_cannot_be(run: Run, body: dict[str, Any], param: str) -> None:
    async with run(settings={"VALET_SSD": "0"}) as r:
        await r.chat(LONG, session_id="s1")
        error = (await r.post("/v1/sessions/s1/pin", json=body, expect=400))["error"]
        assert error["param"] == param


async def test_a_broken_pin_is_an_event(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        await r.post("/v1/sessions/s1/pin", json={"tier": "device", "ttl_s": 60})
        held = (await r.get("/v1/sessions/s1"))["kv"]["tokens_by_tier"]["device"] // 4
        r.engine.make_room(Tier.DEVICE, held)
        await r.valet.reaper.round()
        assert await pins(r) == []
        kind, details = (await events(r))[-1]
        assert kind == "pin_broken"
        assert details["tier"] == "device"
        await r.valet.reaper.round()
        assert [kind for kind, _ in await events(r)].count("pin_broken") == 1


async def test_pins_are_claimed_again_after_a_restart(run: Run) -> None:
    disk = FakeDisk()
    async with run(disk) as r:
        await r.chat(LONG, session_id="s1")
        await r.post("/v1/sessions/s1/pin", json={"tier": "ssd", "ttl_s": 600})
    async with run(disk) as r:
        assert await pins(r) == [("ssd", 600, "api")]
        (usage,) = await r.engine.usage()
        assert usage.pinned_by_tier[Tier.SSD] > 0


# --- what a request's fields ask for -------------------------------------------------------------


async def message(r: Running, expect: int = 200, **more: Any) -> dict[str, Any]:
    body = {"model": "fake", "max_tokens": 8, "messages": [{"role": "user", "content": LONG}]}
    answer = await r.client.post("/v1/messages", json=body | more, headers={"x-session-id": "s1"})
    assert answer.status_code == expect, answer.text
    await r.valet.desk.settle(5)
    return answer.json()


async def test_cache_control_is_a_lease_that_use_renews(run: Run) -> None:
    async with run() as r:
        five = {"cache_control": {"type": "ephemeral"}}
        receipt = (await message(r, **five))["kv_receipt"]
        assert receipt["lease"] == {"tier": "dram", "ttl_s": 300, "granted": True}
        first = (await r.get("/v1/sessions/s1"))["pins"][0]
        await message(r, cache_control={"type": "ephemeral", "ttl": "1h"})
        hour = (await r.get("/v1/sessions/s1"))["pins"][0]
        assert hour["expires_at"] - first["expires_at"] >= 3300
        await message(r, **five)
        again = (await r.get("/v1/sessions/s1"))["pins"][0]
        assert again["expires_at"] >= hour["expires_at"]
        assert [kind for kind, _ in await events(r)].count("pinned") == 1
        assert "lease" not in (await message(r))["kv_receipt"]


async def test_retention_is_a_lease(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1", prompt_cache_retention="24h")
        assert await pins(r) == [("ssd", 86_400, "prompt_cache_retention")]
        await r.chat(LONG, session_id="s2", prompt_cache_retention="in_memory")
        assert await pins(r, "s2") == [("dram", 600, "prompt_cache_retention")]


async def test_a_lease_over_budget_costs_the_request_nothing(run: Run) -> None:
    async with run(settings=ROOM) as r:
        await r.chat(LONG, session_id="other")
        await r.post("/v1/sessions/other/pin", json={"tier": "dram", "ttl_s": 60})
        await r.post("/v1/sessions/other/park")
        await r.post("/v1/sessions/other/prefetch")
        await r.chat("else " + LONG, session_id="s1")
        answer = await r.chat("else " + LONG, session_id="s1", prompt_cache_retention="in-memory")
        assert answer["kv_receipt"]["lease"]["granted"] is False
        assert await pins(r) == []
        told = {"tier": "dram", "ttl_s": 600, "source": "prompt_cache_retention"}
        assert ("pin_refused", told) in await events(r)


async def test_values_that_those_apis_refuse_are_refused(run: Run) -> None:
    async with run() as r:
        error = await message(r, cache_control={"type": "ephemeral", "ttl": "2h"}, expect=400)
        assert error["type"] == "error"
        assert error["error"]["type"] == "invalid_request_error"
        error = await r.chat(LONG, prompt_cache_retention="1w", expect=400)
        assert error["error"]["param"] == "prompt_cache_retention"
        assert (await r.get("/v1/sessions"))["data"] == []


def blocks(*controls: object) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "x", "cache_control": control} for control in controls]


FIVE, HOUR = {"type": "ephemeral", "ttl": "5m"}, {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("body", "ttl_s"),
    [
        ({}, None),
        ({"system": "text", "tools": None, "messages": [None, 3, {"content": "x"}]}, None),
        ({"system": blocks(FIVE)}, 300),
        ({"system": blocks({"type": "ephemeral"}), "tools": [{"cache_control": HOUR}]}, 3600),
        ({"messages": [{"content": blocks(FIVE, None)}]}, 300),
        ({"messages": [{"content": [{"type": "tool_result", "content": blocks(HOUR)}]}]}, 3600),
    ],
)
def test_the_longest_lease_counts(body: dict[str, Any], ttl_s: int | None) -> None:
    wish = wish_of(Api.MESSAGES, body)
    assert wish == (None if ttl_s is None else Wish(Tier.DRAM, ttl_s, "cache_control"))
    assert wish_of(Api.CHAT, body) is None


@pytest.mark.parametrize(
    "control", [[], "ephemeral", {"type": "x"}, {"type": "ephemeral", "ttl": 300}, {}]
)
def test_controls_that_are_none(control: object) -> None:
    with pytest.raises(BadLease) as refused:
        wish_of(Api.MESSAGES, {"system": blocks(control)})
    assert refused.value.param == "system.0.cache_control"


def test_four_controls_are_the_most() -> None:
    assert wish_of(Api.MESSAGES, {"system": blocks(*[FIVE] * 4)})
    with pytest.raises(BadLease, match="At most 4"):
        wish_of(Api.MESSAGES, {"system": blocks(*[FIVE] * 5)})


# --- terms and events ----------------------------------------------------------------------------


async def test_terms_and_metadata_change(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        before = await r.get("/v1/sessions/s1")
        assert before["expires_at"] - before["last_active_at"] == 30 * 86_400
        changed = await r.client.patch(
            "/v1/sessions/s1", json={"ttl_s": 3600, "metadata": {"agent": "a"}}
        )
        session = changed.json()
        assert session["expires_at"] - session["last_active_at"] == 3600
        assert session["metadata"] == {"agent": "a"}
        back = (await r.client.patch("/v1/sessions/s1", json={"ttl_s": None})).json()
        assert back["expires_at"] == before["expires_at"]
        assert back["metadata"] == {"agent": "a"}
        assert (await events(r))[1:] == [
            ("changed", {"fields": ["metadata", "ttl_s"]}),
            ("changed", {"fields": ["ttl_s"]}),
        ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ttl_s": 59}, "ttl_s"),
        ({"ttl_s": 10**12}, "ttl_s"),
        ({"metadata": {"k": "v" * 513}}, "k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": 1}}, "k"),
        ({"metadata": None}, "metadata"),
        ({"tenant": "x"}, "tenant"),
    ],
)
async def test_changes_that_cannot_be(run: Run, body: dict[str, Any], param: str) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        answer = await r.client.patch("/v1/sessions/s1", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


async def test_half_a_character_is_refused(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        for body in (b'{"metadata":{"k":"\\ud800"}}', b'{"metadata":{"\\ud800":"v"}}'):
            headers = {"content-type": "application/json"}
            answer = await r.client.patch("/v1/sessions/s1", content=body, headers=headers)
            assert answer.status_code == 400


async def test_events_say_what_happened_and_outlive_the_session(run: Run) -> None:
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        await r.post("/v1/sessions/s1/park")
        await r.post("/v1/sessions/s1/park")
        await r.post("/v1/sessions/s1/prefetch")
        await r.post("/v1/sessions/s1/park")
        await r.chat(LONG, session_id="s1")
        freed = (await r.client.delete("/v1/sessions/s1")).json()["freed"]
        assert [event for event in await events(r) if event[0] != "rewritten"] == [
            ("created", {}),
            ("parked", {"by": "request"}),
            ("resumed", {"by": "prefetch", "was": "parked"}),
            ("parked", {"by": "request"}),
            ("resumed", {"by": "turn", "was": "parked"}),
            ("deleted", freed),
        ]
        page = await r.get("/v1/sessions/s1/events?limit=1")
        assert page["data"][0]["kind"] == "deleted"
        rest = await r.get("/v1/sessions/s1/events", params={"after": page["next"]})
        assert rest["data"][-1]["kind"] == "created"
        await r.get("/v1/sessions/never/events", expect=404)
        await r.get("/v1/sessions/s1/events?after=nonsense", expect=400)


async def test_a_sessions_events_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.upkeep.events.MAX_EVENTS", 3)
    async with run() as r:
        await r.chat(LONG, session_id="s1")
        for number in range(5):
            await r.client.patch("/v1/sessions/s1", json={"metadata": {"n": str(number)}})
        assert [kind for kind, _ in await events(r)] == ["changed"] * 3
