"""Survival curves, against what they are defined by."""

import math

import numpy as np
import pytest

from cache_tiers.returns.curve import Curve, Grid
from cache_tiers.returns.prior import GAPS, RATIOS, of_announced, of_gaps
from cache_tiers.returns.types import Awaits

GRID = Grid(low=1.0, high=100.0, per_decade=2)
"""Bins end at 1, √10, 10, √1000, 100."""
HALVES = np.full(GRID.bins, 0.5)


def test_bins_begin_at_nothing_and_grow_by_a_factor() -> None:
    assert GRID.edges == pytest.approx((0, 1, 10**0.5, 10, 10**1.5, 100))
    assert [GRID.bin_of(time) for time in (0, 0.99, 1, 9, 10, 99, 100, 1e9)] == [
        0, 0, 1, 2, 3, 4, 5, 5,
    ]  # fmt: skip
    assert GRID.bins == 5


def test_the_share_that_returns_in_a_bin_is_gone_at_its_end() -> None:
    curve = Curve(GRID, HALVES)
    assert curve.survival(0) == 1
    for passed, edge in enumerate(GRID.edges):
        assert curve.survival(edge) == pytest.approx(0.5**passed)


def test_within_a_bin_the_hazard_is_constant() -> None:
    curve = Curve(GRID, HALVES)
    assert curve.hazard(0) == curve.hazard(0.9) == pytest.approx(math.log(2))
    assert curve.hazard(10) == curve.hazard(30) == pytest.approx(math.log(2) / (10**1.5 - 10))
    assert curve.survival(0.5) == pytest.approx(0.5**0.5)


def test_quantiles_are_when_that_many_are_back() -> None:
    curve = Curve(GRID, HALVES)
    assert curve.quantile(0) == 0
    assert curve.quantile(0.5) == pytest.approx(1)
    assert curve.quantile(0.75) == pytest.approx(10**0.5)
    # Of those that are still away then, half are back at the end of the next bin.
    assert curve.quantile(0.5, 10) == pytest.approx(10**1.5)


def test_who_is_away_beyond_the_last_bin_is_not_expected() -> None:
    curve = Curve(GRID, HALVES)
    assert curve.survival(1e9) == pytest.approx(0.5**5)
    assert curve.hazard(100) == 0
    assert curve.quantile(1 - 0.5**5 + 1e-6) == math.inf
    assert curve.quantile(0.01, 100) == math.inf
    assert curve.quantile(1) == math.inf
    assert curve.quantile(0, 200) == 200


def test_a_bin_in_which_nobody_returns_is_passed_over() -> None:
    curve = Curve(GRID, np.array([0, 0.5, 0, 0.5, 0]))
    assert curve.survival(1) == 1
    assert curve.hazard(0.5) == 0
    assert curve.quantile(0.5) == pytest.approx(10**0.5) or curve.quantile(0.5) == pytest.approx(10)
    assert curve.quantile(0.7) > 10
    assert curve.quantile(0.8) == math.inf


def test_a_unit_stretches_time() -> None:
    one, seven = Curve(GRID, HALVES), Curve(GRID, HALVES, unit_s=7)
    assert seven.survival(70) == pytest.approx(one.survival(10))
    assert seven.hazard(69) == pytest.approx(one.hazard(69 / 7) / 7)
    assert seven.quantile(0.6, 21) == pytest.approx(7 * one.quantile(0.6, 3))


def test_the_bin_around_a_gap_is_the_two_survivals_at_its_ends() -> None:
    curve = Curve(GRID, HALVES, unit_s=2)
    assert curve.bin_around(3) == pytest.approx((0.5, 0.25))
    assert curve.bin_around(1e9) == pytest.approx((0.5**5, 0))


@pytest.mark.parametrize(
    ("awaits", "quantiles"),
    [
        (Awaits.TOOL, {0.1: 4, 0.5: 9, 0.75: 19, 0.9: 71, 0.99: 612}),
        (Awaits.PERSON, {0.1: 16, 0.5: 132, 0.75: 480, 0.9: 1935, 0.99: 15_000}),
    ],
)
def test_at_first_gaps_are_those_of_recorded_coding_sessions(
    awaits: Awaits, quantiles: dict[float, float]
) -> None:
    curve = Curve(GAPS, of_gaps(awaits))
    for share, seconds in quantiles.items():
        assert curve.quantile(share) == pytest.approx(seconds, rel=0.2)


def test_at_first_an_announcement_is_believed_to_a_factor() -> None:
    curve = Curve(RATIOS, of_announced(), unit_s=60)
    assert curve.quantile(0.5) == pytest.approx(60, rel=0.1)
    assert curve.quantile(0.25) == pytest.approx(60 / 1.4, rel=0.1)
    assert curve.quantile(0.75) == pytest.approx(60 * 1.4, rel=0.1)
