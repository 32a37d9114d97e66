"""What a request is charged, and which sessions make room when a tenant holds too much."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quotas import estimated_tokens, span_text, used_tokens
from cache_tiers.hints import Dropped, KvReport, SessionKv, TenantBytes
from cache_tiers.types import SessionKey, Tier
from engine.port import Generation
from sessions.lifecycle import created
from sessions.tenancy import byte_quotas
from sessions.tenancy.byte_quotas import Excess, excesses, keep_byte_quotas
from sessions.tenancy.quotas import Quotas
from sessions.types import Session, SessionBusy

NOW = datetime(2030, 1, 1, tzinfo=UTC)
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "9", [], {}])
FIELDS = ["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "other"]


@pytest.mark.parametrize(
    ("size", "body", "tokens"),
    [
        (0, {}, 1),
        (400, {}, 101),
        (400, {"max_tokens": 50}, 151),
        (400, {"max_completion_tokens": 50, "max_tokens": 7}, 151),
        (400, {"max_output_tokens": 50}, 151),
        (400, {"max_tokens": 50, "n": 3}, 251),
        (400, {"max_tokens": -50, "n": -3}, 101),
        (400, {"max_tokens": True, "n": "3"}, 101),
    ],
)
def test_an_estimate(size: int, body: dict[str, Any], tokens: int) -> None:
    assert estimated_tokens(size, body) == tokens


@given(st.integers(0, 2**26), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_an_estimate_of_anything_is_a_number(size: int, body: dict[str, Any]) -> None:
    assert 1 <= estimated_tokens(size, body) <= 2**63


def test_what_was_used() -> None:
    finished = Generation(0.0, report=KvReport(prompt=100, computed=1), output_tokens=5)
    aborted = Generation(0.0, prompt_tokens=[1, 2, 3], output_tokens=2)
    unseen = Generation(0.0)
    assert used_tokens([], 40) == 0
    assert used_tokens([finished, aborted, unseen], 40) == 105 + 5 + 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.02, "20ms"), (0.9999, "1000ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


# --- bytes ---------------------------------------------------------------------------------------


class Store:
    """Sessions of 10 bytes in every tier of theirs, and what was done to them."""

    def __init__(self, **tiers: Sequence[Tier]) -> None:
        """Named ``tenant_age``: the older, the longer idle."""
        self.tiers = {(n.split("_")[0], n): set(tiers[n]) for n in tiers}
        self.done: list[str] = []
        self.ssd_takes = True
        self.busy: set[str] = set()

    async def usage(self) -> list[TenantBytes]:
        return [
            TenantBytes(
                tenant,
                {
                    tier: sum(10 for (t, _), at in self.tiers.items() if t == tenant and tier in at)
                    for tier in Tier
                },
            )
            for tenant in {tenant for tenant, _ in self.tiers}
        ]

    async def held_sessions(self) -> list[SessionKv]:
        return [
            SessionKv(SessionKey("/".join(name)), known=True, bytes_by_tier=dict.fromkeys(at, 10))
            for name, at in self.tiers.items()
        ] + [SessionKv(SessionKey(""), known=True), SessionKv(SessionKey("a/"), known=True)]

    async def find_all(self, names: Sequence[tuple[str, str]]) -> list[Session]:
        return [
            replace(
                created(tenant, name, "m", NOW),
                last_active_at=NOW - timedelta(hours=int(name.split("_")[1])),
                running=int(name in self.busy),
            )
            for tenant, name in names
        ]

    async def park(self, tenant: str, session_id: str, by: str) -> SessionKv:
        self.done.append(f"park {session_id}")
        if session_id.endswith("_9"):
            raise SessionBusy("a turn began")
        if self.ssd_takes:
            self.tiers[tenant, session_id] = {Tier.SSD}
        return SessionKv(SessionKey(f"{tenant}/{session_id}"), True, ssd_complete=self.ssd_takes)

    async def drop_kv(self, tenant: str, session_id: str, reason: str) -> Dropped:
        self.done.append(f"drop {session_id}")
        self.tiers[tenant, session_id] = set()
        return Dropped(SessionKey(f"{tenant}/{session_id}"), known=True)

    async def round(self, **quotas: Quotas) -> int:
        """One round, with these tenants' quotas."""
        kv: Any = self
        return await keep_byte_quotas(kv, self, lambda tenant: quotas.get(tenant, Quotas()))


ALL = tuple(Tier)


async def test_nothing_is_touched_within_the_quota() -> None:
    store = Store(a_1=ALL, a_2=ALL, b_1=ALL)
    assert await store.round(a=Quotas(dram=20, ssd=20, device=0)) == 0
    assert store.done == []


async def test_the_longest_idle_are_parked_and_no_more_than_needed() -> None:
    store = Store(a_1=ALL, a_3=ALL, a_2=ALL, b_5=ALL)
    assert await store.round(a=Quotas(dram=15)) == 2
    assert store.done == ["park a_3", "park a_2"]
    assert await store.round(a=Quotas(dram=15)) == 0


async def test_over_the_ssd_the_longest_idle_lose_their_kv() -> None:
    store = Store(a_1=ALL, a_3=[Tier.SSD], a_2=ALL, b_5=ALL)
    assert await store.round(a=Quotas(ssd=20)) == 1
    assert store.done == ["drop a_3"]


async def test_what_cannot_be_parked_is_dropped() -> None:
    store = Store(a_1=ALL, a_2=ALL)
    store.ssd_takes = False
    await store.round(a=Quotas(device=10))
    assert store.done == ["park a_2", "drop a_2"]


async def test_running_sessions_are_left_alone() -> None:
    store = Store(a_1=ALL, a_9=ALL, a_3=ALL)
    store.busy = {"a_3"}
    await store.round(a=Quotas(device=10))
    assert store.done == ["park a_9", "park a_1"]


async def test_a_round_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_quotas, "MAX_A_ROUND", 3)
    store = Store(a_1=ALL, a_2=ALL, a_3=ALL, a_4=ALL)
    assert await store.round(a=Quotas(device=1)) == 3
    assert await store.round(a=Quotas(device=1)) == 1


def test_upper_tiers_come_first() -> None:
    held = TenantBytes("a", {Tier.SSD: 30, Tier.DEVICE: 10, Tier.DRAM: 20})
    found = excesses([held], lambda _: Quotas(ssd=1, device=2, dram=20))
    assert found == [Excess("a", Tier.DEVICE, 8), Excess("a", Tier.SSD, 29)]
