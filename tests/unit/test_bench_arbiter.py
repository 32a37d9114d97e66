"""Which pairs of a hit and a miss count, and what they say."""

from typing import Any

import pytest

from load.bench_arbiter import Pair, break_even, draw, fault_of, make_pair, summarize
from load.stream import Streamed


def receipt(reason: str = "appended", **reused: int) -> dict[str, Any]:
    by_tier = {"device": 0, "dram": 0, "ssd": 0} | reused
    return {
        "prompt_tokens": 2056,
        "reused_tokens": by_tier,
        "bytes_loaded": 1000,
        "miss": [{"reason": reason, "at_token": 0, "tokens": 2056 - sum(by_tier.values())}],
    }


def answer(ttft: float, said: dict[str, Any] | None) -> Streamed:
    return Streamed("x", (ttft, ttft + 1), ttft + 1, None, said)


def pair(disk: str = "unlimited", ratio: float = 0.5, **changes: Any) -> Pair:
    values = {
        "disk": disk,
        "prompt_tokens": 2056,
        "round": 0,
        "miss": 2.0,
        "hit": 2.0 * ratio,
        "loaded_tokens": 2048,
        "computed_cheaper": 0,
        "kv_bytes": 1000,
        "fault": None,
    }
    return Pair(**(values | changes))


def test_a_pair_is_what_its_answers_say() -> None:
    made = make_pair("slow", 3, answer(2.0, receipt()), answer(1.0, receipt(ssd=2048)))
    assert (made.miss, made.hit, made.loaded_tokens) == (2.0, 1.0, 2048)
    assert made.fault is None
    computed = make_pair("slow", 3, answer(2.0, receipt()), answer(1, receipt("recompute_cheaper")))
    assert computed.computed_cheaper == 2056
    assert computed.fault is None


@pytest.mark.parametrize(
    ("new", "again"),
    [
        ({}, receipt()),
        (receipt(), {}),
        (receipt(device=128), receipt(ssd=2048)),
        (receipt(), receipt(device=2048)),
        (receipt(), receipt("evicted")),
        (receipt(), receipt("corrupt_chunk")),
    ],
)
def test_anything_else_is_not_counted(new: dict[str, Any], again: dict[str, Any]) -> None:
    assert fault_of(new, again)


def test_the_disk_that_is_as_slow_as_computing() -> None:
    pairs = [pair(), pair(miss=4.0), pair(miss=3.0), pair(prompt_tokens=264, kv_bytes=9999)]
    assert break_even(pairs) == round(1000 / 3.0)
    with pytest.raises(ValueError, match="loaded"):
        break_even([pair(kv_bytes=0)])


def test_the_median_is_judged_and_faults_are_left_out() -> None:
    pairs = [pair(ratio=r) for r in (1.0, 1.04, 1.3)] + [pair(ratio=9.0, fault="x")]
    (row,) = summarize(pairs)
    assert row["hit_over_miss"]["median"] == 1.04
    assert row["wanted"]
    (row,) = summarize([pair(ratio=1.06)])
    assert not row["wanted"]
    (row,) = summarize([pair(fault="x")])
    assert row["wanted"] is None


def test_the_table_has_a_line_for_each_disk_and_length() -> None:
    pairs = [pair("slow", 1.01), pair(), pair("break-even"), pair(prompt_tokens=264, fault="x")]
    lines = draw(summarize(pairs)).splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [
        ["unlimited", "264"],
        ["unlimited", "2056"],
        ["break-even", "2056"],
        ["slow", "2056"],
    ]
    assert lines[0].endswith("not measured")
    assert lines[3].endswith("met")
