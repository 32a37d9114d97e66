"""Samples to figures, and figures to tables."""

import json
import random
from pathlib import Path

import pytest

from load.report import (
    Spread,
    bootstrap_median,
    ms,
    percentile,
    ratio,
    spread_ms,
    table,
    times,
    verdicts,
    write_json,
)


def test_a_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(4, 2.5, 1.0, 10.0)
    assert Spread.of([]) is None


def test_a_ratio_of_medians() -> None:
    assert ratio(Spread.of([2.0, 4.0]), Spread.of([1.5])) == 2
    assert ratio(None, Spread.of([1.0])) is None
    assert ratio(Spread.of([1.0]), Spread.of([0.0])) is None


def test_a_bootstrap_interval_holds_the_truth_and_narrows() -> None:
    dice = random.Random(2)
    few = bootstrap_median([[dice.gauss(1.02, 0.05) for _ in range(10)]])
    many = bootstrap_median([[dice.gauss(1.02, 0.05) for _ in range(200)]])
    assert few is not None
    assert many is not None
    assert few.low <= few.median <= few.high
    assert many.low <= 1.02 <= many.high
    assert many.high - many.low < few.high - few.low


def test_a_bootstrap_repeats_itself() -> None:
    dice = random.Random(3)
    groups = [[dice.random() for _ in range(3)] for _ in range(3)]
    assert bootstrap_median(groups) == bootstrap_median(groups)
    assert bootstrap_median([]) is None
    assert bootstrap_median([[], []]) is None


def test_groups_that_differ_make_an_interval_wide() -> None:
    dice = random.Random(5)
    groups = [[mean + dice.gauss(0, 0.001) for _ in range(20)] for mean in (0.9, 1.0, 1.1, 1.2)]
    apart = bootstrap_median(groups)
    mixed = bootstrap_median([[sample for group in groups for sample in group]])
    assert apart is not None
    assert mixed is not None
    assert apart.median == mixed.median
    assert apart.low < mixed.low
    assert apart.high > mixed.high


def test_less_confidence_is_a_narrower_interval() -> None:
    dice = random.Random(4)
    samples = [dice.random() for _ in range(40)]
    sure, less = bootstrap_median([samples], 0.99), bootstrap_median([samples], 0.5)
    assert sure is not None
    assert less is not None
    assert sure.low < less.low <= less.high < sure.high


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.1, 1), (0.5, 5), (0.51, 6), (0.9, 9), (0.99, 10), (1, 10)]
)
def test_percentiles_are_samples(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], share) == expected


def test_no_samples_have_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_a_table_lines_up() -> None:
    lines = table(["place", "ms"], [["device", "1.0"], ["a long name", "1,234.5"]]).splitlines()
    assert lines == [
        "place             ms",
        "-----------  -------",
        "device           1.0",
        "a long name  1,234.5",
    ]


def test_figures() -> None:
    assert ms(1.23456) == "1,234.6"
    assert ms(None) == "–"
    assert times(1.954) == "1.95 ×"
    assert times(81.4) == "81 ×"
    assert times(None) == "–"
    assert spread_ms(Spread(2, 0.002, 0.001, 0.003)) == "2.0 (1.0–3.0)"
    assert spread_ms(None) == "–"


def test_a_line_for_each_goal() -> None:
    goals = {"fast": True, "small": False, "quiet": None}
    assert verdicts(goals) == "fast: met\nsmall: missed\nquiet: not measured"
    assert verdicts({}) == ""


def test_json_is_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench" / "x.json"
    write_json(path, {"a": [1, 2, 3]})
    write_json(path, {"b": "≤"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": "≤"}
