"""The twin held against a server: the trace that is made, and what is compared."""

from typing import Any

import pytest

from load.bench_twin import Place, draw, foretold, replay, seen, trace_lines, wanted
from load.calibration import TAIL, Timed, engine_model
from load.side_by_side import Tiers
from load.stints import CHUNK_TOKENS, KV_BYTES
from load.team import Turned
from load.traces import own_requests


def _turn(agent: int, number: int, sent: float, prompt: int, **changes: Any) -> Turned:
    return Turned(
        **{
            "agent": agent,
            "number": number,
            "sent": sent,
            "tool": "search",
            "gap_s": 9.0,
            "announced": False,
            "ttft": 0.1,
            "ended": 0.5,
            "output_tokens": 10,
            "receipt": _receipt(prompt),
            **changes,
        }
    )


def _receipt(prompt: int, prefetched: int = 0, **reused: int) -> dict[str, Any]:
    by_tier = {"device": 0, "dram": 0, "ssd": 0} | reused
    return {
        "prompt_tokens": prompt,
        "computed_tokens": prompt - sum(by_tier.values()),
        "reused_tokens": by_tier,
        "prefetched_tokens": prefetched,
    }


def _work() -> tuple[list[Turned], list[Turned]]:
    """Two agents, whose sessions are on SSD; the second rewrites its history at last."""
    receipt = _receipt(1000, ssd=768)
    opening = [_turn(n, 2, n * 1.0, 1000, tool="", receipt=receipt) for n in range(2)]
    stint = [
        _turn(0, 3, 50.0, 1050, tool=""),
        _turn(1, 3, 55.0, 1050, tool=""),
        _turn(0, 4, 60.0, 1100),
        _turn(1, 4, 66.0, 500),
    ]
    stint[-1].receipt["prefix_change"] = {"at_token": 400, "message": 3}
    return opening, stint


def test_a_trace_has_what_was_done() -> None:
    lines = trace_lines(*_work())
    before, lines = lines[:2], lines[2:]
    assert [(line["session"], line["prompt"]) for line in before] == [
        ("agent-0", 768),
        ("agent-1", 768),
    ]
    assert [line["at"] for line in lines] == [0, 1, 50, 55, 60, 66]
    assert [line["prompt"] for line in lines] == [1000, 1000, 1050, 1050, 1100, 500]
    assert [line["tool"] for line in lines] == ["", "", "search", "search", "", ""]
    assert [line["awaits"] for line in lines] == ["person"] * 2 + ["tool"] * 2 + ["person"] * 2
    assert [line.get("keeps") for line in lines] == [None] * 5 + [400]
    requests = list(own_requests([*before, *lines]))
    assert requests[2].runs[0] == (requests[0].runs[0][0], 768)
    assert requests[4].runs[0] == (requests[2].runs[0][0], 768)
    assert sum(count for _, count in requests[4].runs[:2]) >= 1010
    assert sum(count for _, count in requests[7].runs) == 500


def test_prefetched_tokens_were_at_hand() -> None:
    turns = [
        _turn(0, 1, 0.0, 1000, receipt=_receipt(1000, 256, device=128, dram=128, ssd=512)),
        _turn(0, 2, 0.0, 1000, receipt=_receipt(1000, 512, device=512)),
    ]
    assert seen(turns) == pytest.approx({Place.HOT: 0.512, Place.SSD: 0.128, Place.NOWHERE: 0.36})


def _timed() -> list[Timed]:
    return [
        Timed(n + TAIL, 0.1 + n * 1e-3, 0.1, 0.01, 0.03, 0.01, n * KV_BYTES)
        for n in (256, 512, 1024)
    ]


ENGINE = engine_model(_timed(), 0.1, 0.1)


def test_a_twin_with_room_finds_everything_again() -> None:
    lines = trace_lines(*_work())
    outcome = replay(lines, Tiers(1 << 40, 1 << 40), ENGINE, _timed(), warm_up=2)
    assert outcome.steady.turns == 4
    told = foretold(outcome)
    assert told[Place.SSD] == 0
    assert told[Place.HOT] == pytest.approx(
        sum(n // CHUNK_TOKENS * CHUNK_TOKENS for n in (1010, 1010, 1060, 400)) / 3700
    )
    assert sum(told.values()) == pytest.approx(1)


def test_a_twin_without_room_does_not() -> None:
    lines = trace_lines(*_work())
    chunk = CHUNK_TOKENS * KV_BYTES
    told = foretold(replay(lines, Tiers(10 * chunk, 4 * chunk), ENGINE, _timed(), warm_up=2))
    assert told[Place.HOT] < 0.7
    assert told[Place.SSD] + told[Place.NOWHERE] > 0.3


@pytest.mark.parametrize(("points", "ttft", "met"), [(1.9, -0.1, 2), (-2.1, 0.1, 1), (0.0, 0.2, 1)])
def test_what_is_wanted_of_the_twin(points: float, ttft: float, met: int) -> None:
    differences = dict.fromkeys(Place, 0.0) | {Place.HOT: points, "ttft_p50": ttft}
    assert list(wanted(differences).values()).count(True) == met


def test_the_table_has_every_place() -> None:
    shares = dict.fromkeys(Place, 0.25)
    text = draw(shares, shares, dict.fromkeys(Place, 0.0))
    assert all(place.value in text for place in Place)
