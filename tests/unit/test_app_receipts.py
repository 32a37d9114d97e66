"""Receipts from reports, and usage that agrees with them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from app.receipts import learn, make_receipt, reason
from app.wire import Api, put_receipt
from cache_tiers.hints import KvReport, Miss
from cache_tiers.prefill_cost import PrefillCost
from cache_tiers.types import MissReason
from engine.port import Generation
from sessions.types import Session, SessionState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = Session(
    id="s",
    tenant="t",
    model="m",
    state=SessionState.IDLE,
    created_at=NOW,
    last_active_at=NOW,
    turns=3,
    tokens=10,
    fingerprint="f1",
    running=0,
)


def _generation(report: KvReport, start: float = 10.0) -> Generation:
    return Generation(
        started_at=start,
        scheduled_at=start + 0.08,
        first_token_at=start + 0.3,
        finished_at=start + 1,
        report=report,
    )


def _report() -> KvReport:
    return KvReport(
        prompt=7196,
        computed=28,
        dram=1024,
        ssd=6144,
        prefetched=1024,
        bytes_loaded=165150720,
        load_ms=71.0,
        misses=(Miss(MissReason.PREFIX_CHANGED, 7168, 28),),
    )


def test_one_generation() -> None:
    cost = PrefillCost()
    cost.observe(0, 7168, 40_000)
    assert make_receipt("s", 7, [_generation(_report())], None, "f1", cost) == {
        "session_id": "s",
        "turn": 7,
        "prompt_tokens": 7196,
        "computed_tokens": 28,
        "reused_tokens": {"device": 0, "dram": 1024, "ssd": 6144},
        "prefetched_tokens": 1024,
        "bytes_loaded": 165150720,
        "ms": {"queue": 9.0, "load": 71.0, "prefill": 220.0, "ttft": 300.0},
        "saved_ms_estimate": 39_929,
        "miss": [{"reason": "prefix_changed", "at_token": 7168, "tokens": 28}],
    }


def test_several_generations_are_summed() -> None:
    both = [_generation(_report()), _generation(_report(), start=11.0)]
    receipt = make_receipt("s", 1, both, None, "f1", PrefillCost())
    assert receipt["prompt_tokens"] == 2 * 7196
    assert receipt["reused_tokens"]["ssd"] == 2 * 6144
    assert receipt["ms"] == {"queue": 18.0, "load": 142.0, "prefill": 440.0, "ttft": 300.0}
    assert len(receipt["miss"]) == 2


def test_times_the_engine_did_not_say_are_unknown() -> None:
    silent = Generation(started_at=1.0, report=KvReport(prompt=4, computed=4))
    receipt = make_receipt("s", 1, [silent], None, "f1", PrefillCost())
    assert receipt["ms"] == {"queue": None, "load": 0, "prefill": None, "ttft": None}


@pytest.mark.parametrize(
    ("previous", "expected"),
    [
        (None, MissReason.NEW_SESSION),
        (replace(KNOWN, fingerprint=""), MissReason.NEW_SESSION),
        (KNOWN, MissReason.EVICTED),
        (replace(KNOWN, fingerprint="f0"), MissReason.FINGERPRINT_CHANGED),
        (replace(KNOWN, fingerprint="f0", state=SessionState.EXPIRED), MissReason.EXPIRED),
    ],
)
def test_the_database_knows_why_a_session_is_new(
    previous: Session | None, expected: MissReason
) -> None:
    assert reason(Miss(MissReason.NEW_SESSION, 0, 9), previous, "f1") is expected
    assert reason(Miss(MissReason.IO_TIMEOUT, 0, 9), previous, "f1") is MissReason.IO_TIMEOUT


def test_prefills_are_learned_from_where_reuse_ended() -> None:
    cost = PrefillCost()
    learn(cost, [_generation(_report())])
    assert cost.cost(7168, 7196) == 0, "28 tokens are a step's fixed cost"
    longer = msgspec.structs.replace(_report(), prompt=7368, computed=200)
    learn(cost, [_generation(longer)])
    assert cost.cost(7168, 7368) == pytest.approx(220.0)


@pytest.mark.parametrize(
    ("api", "usage", "expected"),
    [
        (
            Api.CHAT,
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8, "x": 1}},
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4, "x": 1}},
        ),
        (
            Api.COMPLETIONS,
            {"prompt_tokens": 9, "prompt_tokens_details": None},
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}},
        ),
        (
            Api.RESPONSES,
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 8}},
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}},
        ),
        (
            Api.MESSAGES,
            {"input_tokens": 1, "cache_read_input_tokens": 8},
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 0,
            },
        ),
        (
            Api.MESSAGES,
            {"input_tokens": 9},
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 0,
            },
        ),
        (Api.CHAT, None, None),
    ],
)
def test_usage_agrees_with_the_receipt(
    api: Api, usage: dict[str, object] | None, expected: dict[str, object] | None
) -> None:
    answer = {"usage": usage}
    receipt = {"reused_tokens": {"device": 0, "dram": 1, "ssd": 3}}
    put_receipt(api, answer, receipt)
    assert answer == {"usage": expected, "kv_receipt": receipt}


@pytest.mark.parametrize(
    ("lease", "read", "written", "kept"),
    [
        (None, 0, 0, (0, 0)),
        ({"ttl_s": 300, "granted": True}, 0, 20, (20, 0)),
        ({"ttl_s": 3600, "granted": True}, 16, 4, (0, 4)),
        ({"ttl_s": 300, "granted": True}, 20, 0, (0, 0)),
        ({"ttl_s": 300, "granted": False}, 0, 0, (0, 0)),
        ({"ttl_s": 300, "granted": None}, 0, 0, (0, 0)),
    ],
)
def test_anthropics_usage_says_what_a_lease_holds(
    lease: dict[str, object] | None, read: int, written: int, kept: tuple[int, int]
) -> None:
    answer: dict[str, Any] = {"type": "message", "usage": {"input_tokens": 22}}
    receipt = {"prompt_tokens": 22, "reused_tokens": {"device": read, "dram": 0, "ssd": 0}}
    put_receipt(Api.MESSAGES, answer, receipt | ({"lease": lease} if lease else {}), chunk=4)
    assert answer["usage"] == {
        "input_tokens": 22 - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": kept[0],
            "ephemeral_1h_input_tokens": kept[1],
        },
    }
