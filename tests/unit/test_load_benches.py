"""What the benchmarks count, and what they refuse to count."""

from pathlib import Path
from typing import Any

import pytest

from load.bench_overhead import Measured, Pair, judge
from load.bench_overhead import draw as draw_overhead
from load.bench_overhead import summarize as summarize_overhead
from load.bench_resume import (
    TAIL,
    Place,
    RawRead,
    Sample,
    draw,
    fault_of,
    make_sample,
    summarize,
    wanted,
)
from load.raw_disk import drop_page_cache
from load.report import Interval
from load.reuse import ReuseTally
from load.stream import Streamed


def _receipt(prompt: int = 2048 + TAIL, prefetched: int = 0, **reused: int) -> dict[str, Any]:
    by_tier = {"device": 0, "dram": 0, "ssd": 0} | reused
    return {
        "prompt_tokens": prompt,
        "computed_tokens": prompt - sum(by_tier.values()),
        "reused_tokens": by_tier,
        "prefetched_tokens": prefetched,
        "bytes_loaded": 1000,
        "ms": {"load": 12.0},
        "miss": [{"reason": "appended", "at_token": 2048, "tokens": 8}],
    }


def _answer(ttft: float, receipt: dict[str, Any] | None) -> Streamed:
    return Streamed("x", (ttft, ttft + 1), ttft + 1, {"completion_tokens": 2}, receipt)


PROOF = {
    Place.COLD: _receipt(),
    Place.DEVICE: _receipt(device=2048),
    Place.DRAM: _receipt(ssd=2048, prefetched=2048),
    Place.SSD: _receipt(ssd=2048),
    Place.SSD_PARKED: _receipt(ssd=2048),
}


@pytest.mark.parametrize("place", Place)
def test_a_receipt_proves_its_place_and_no_other(place: Place) -> None:
    proved = {p for p in Place if fault_of(p, PROOF[place]) is None}
    ssd = {Place.SSD, Place.SSD_PARKED}
    assert proved == (ssd if place in ssd else {place})


def test_dram_that_never_left_counts_as_dram() -> None:
    assert fault_of(Place.DRAM, _receipt(dram=2048)) is None
    assert fault_of(Place.DRAM, _receipt(dram=1024, ssd=1024, prefetched=1024)) is None


@pytest.mark.parametrize(
    ("place", "receipt"),
    [
        (Place.SSD, _receipt(ssd=1920)),
        (Place.SSD, _receipt(ssd=2048, prefetched=128)),
        (Place.DEVICE, _receipt(device=1920, dram=128)),
        (Place.COLD, _receipt(device=128)),
        (Place.DEVICE, {}),
    ],
)
def test_anything_less_is_not_counted(place: Place, receipt: dict[str, Any]) -> None:
    assert fault_of(place, receipt)


def _samples() -> list[Sample]:
    ttfts = {
        Place.COLD: (30.0, 34.0, 38.0),
        Place.DEVICE: (0.1, 0.2, 0.3),
        Place.DRAM: (0.2, 0.2, 0.2),
        Place.SSD: (0.3, 0.3, 0.4),
        Place.SSD_PARKED: (0.25, 0.25, 0.25),
    }
    return [
        make_sample(place, repeat, _answer(ttft, PROOF[place]))
        for place, all_of_it in ttfts.items()
        for repeat, ttft in enumerate(all_of_it)
    ]


def _raw() -> list[RawRead]:
    return [RawRead(2048 + TAIL, repeat, 1000, 0.010) for repeat in range(3)]


def test_a_summary_has_medians_and_ratios() -> None:
    (row,) = summarize(_samples(), _raw(), [2048 + TAIL])
    assert row["ttft_s"]["cold"] == {"count": 3, "median": 34, "low": 30, "high": 38}
    assert row["load_s"]["ssd"]["median"] == pytest.approx(0.012)
    assert row["ssd_over_device"] == pytest.approx(1.5)
    assert row["load_over_bare_disk"] == pytest.approx(1.2)
    assert row["dram_over_device"] == pytest.approx(1)
    assert row["cold_over_ssd"] == pytest.approx(34 / 0.3)
    assert set(wanted(row | {"ssd_over_device": 1.3}).values()) == {True}


def test_figures_that_are_not_reached_are_missed() -> None:
    (row,) = summarize(_samples(), _raw(), [2048 + TAIL])
    assert set(wanted(row | {"ssd_over_device": 2.1, "cold_over_ssd": 59.0}).values()) == {False}
    assert set(wanted(row | {"ssd_over_device": None, "cold_over_ssd": None}).values()) == {None}


def test_a_sample_with_a_fault_does_not_count() -> None:
    wrong = make_sample(Place.SSD, 9, _answer(0.001, PROOF[Place.DEVICE]))
    assert wrong.fault is not None
    (row,) = summarize([*_samples(), wrong], _raw(), [2048 + TAIL])
    assert row["ttft_s"]["ssd"]["count"] == 3


def test_the_table_shows_gaps_as_gaps() -> None:
    without = [s for s in _samples() if s.place is not Place.SSD]
    drawn = draw(summarize(without, [], [2048 + TAIL]))
    assert "34,000.0 (30,000.0–38,000.0)" in drawn
    assert "–" in drawn


def test_dropping_pages_keeps_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "segments" / "1"
    file.parent.mkdir()
    file.write_bytes(b"kv" * 10_000)
    drop_page_cache(tmp_path)
    assert file.read_bytes() == b"kv" * 10_000


def _measured(ttft: float, per_token: float = 0.04, cached: int = 0) -> Measured:
    return Measured(ttft, per_token, 300, cached)


def test_overhead_is_the_median_of_ratios() -> None:
    pairs = [
        Pair(0, 300, _measured(1.02), _measured(1.0)),
        Pair(0, 300, _measured(2.02), _measured(2.0)),
        Pair(1, 1500, _measured(9.0), _measured(8.0)),
    ]
    short, long, every = summarize_overhead(pairs, [300, 1500])
    assert short["ttft_ratio"].median == pytest.approx(1.015)
    assert long["ttft_ratio"].median == pytest.approx(1.125)
    assert every["ttft_ratio"].count == 3
    assert every["per_token_ratio"].median == 1
    assert "1.125" in draw_overhead([short, long, every])


@pytest.mark.parametrize(
    "bad",
    [
        Pair(0, 300, _measured(1, cached=128), _measured(1)),
        Pair(0, 300, _measured(1), _measured(1, cached=128)),
        Pair(0, 300, Measured(1, 0.04, 301, 0), _measured(1)),
        Pair(0, 300, _measured(1), _measured(1, per_token=0)),
    ],
)
def test_a_pair_that_reused_or_differs_does_not_count(bad: Pair) -> None:
    assert not bad.good
    (short, every) = summarize_overhead([bad], [300])
    assert short["ttft_ratio"] is None
    assert every["ttft_ratio"] is None
    assert "–" in draw_overhead([short, every])


def test_a_verdict_needs_a_clear_interval() -> None:
    assert judge(Interval(9, 1.01, 1.0, 1.02, 0.95)) is True
    assert judge(Interval(9, 1.05, 1.04, 1.06, 0.95)) is False
    assert judge(Interval(9, 1.03, 1.0, 1.06, 0.95)) is None
    assert judge(None) is None


def test_a_tally_counts_by_tier_and_reason() -> None:
    tally = ReuseTally()
    tally.add(3.0, _receipt())
    tally.add(0.1, _receipt(ssd=2048, prefetched=1024))
    tally.add(0.2, _receipt(device=1024, dram=512))
    tally.add(0.4, None)
    summary = tally.summary()
    assert summary["answers"] == 4
    assert summary["without_receipt"] == 1
    assert summary["reused_tokens"] == {"device": 1024, "dram": 512, "ssd": 2048}
    assert summary["prefetched_tokens"] == 1024
    assert summary["missed_tokens"] == {"appended": 24}
    assert summary["reused_share"] == pytest.approx(3584 / (3 * 2056))
    by_source = {name: of["p50"] for name, of in summary["ttft_s"].items()}
    assert by_source == {"all": 0.2, "computed": 3.0, "ssd": 0.1, "device": 0.2, "unknown": 0.4}


def test_an_empty_tally() -> None:
    assert ReuseTally().summary()["reused_share"] is None
