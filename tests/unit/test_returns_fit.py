"""Whether predictions fit: the distance, its critical values, and how trust goes and comes."""

import random

import pytest

from cache_tiers.returns.curve import Curve
from cache_tiers.returns.fit import Calibration, Fits, critical, distance
from cache_tiers.returns.prior import GAPS, of_gaps
from cache_tiers.returns.types import Awaits

PREDICTED = Curve(GAPS, of_gaps(Awaits.TOOL))
"""Always: half come back within 9 s, nearly all between 4 and 71 s."""
EARLY_S, MEDIAN_S = 1.0, 9.0
TENANT, OTHER = "t", "u"


def _expected(dice: random.Random, count: int) -> list[float]:
    """Gaps as predicted."""
    return [PREDICTED.quantile(dice.random() * 0.999) for _ in range(count)]


def _see(fit: Fits, gaps_s: list[float]) -> int:
    return sum(fit.saw(TENANT, PREDICTED, gap_s) for gap_s in gaps_s)


def test_distance_from_an_even_distribution() -> None:
    assert distance([]) == 0
    assert distance([0.5]) == 0.5
    assert distance([0.25, 0.75]) == 0.25
    assert distance([0.9, 0.9, 0.9]) == pytest.approx(0.9)
    assert distance([(i + 0.5) / 100 for i in range(100)]) == pytest.approx(0.005)


def test_critical_distances_are_the_published_ones() -> None:
    # Tables of the Kolmogorov-Smirnov statistic give 1.358 / √n for 5 %, 1.628 / √n for 1 %.
    assert critical(100, 0.05) == pytest.approx(0.1358, abs=1e-4)
    assert critical(10_000, 0.01) == pytest.approx(0.01628, abs=1e-5)


def test_what_was_predicted_is_trusted_for_long() -> None:
    fit = Fits()
    assert _see(fit, _expected(random.Random(1), 10_000)) == 0
    assert fit.trusts(TENANT)
    assert fit.shifts == 0


@pytest.mark.parametrize("gap_s", [EARLY_S, 400.0, 7 * 86_400.0 + 1, 1e12])
def test_gaps_at_one_end_are_noticed_soon_and_once(gap_s: float) -> None:
    fit = Fits()
    _see(fit, _expected(random.Random(1), 500))
    noticed = [fit.saw(TENANT, PREDICTED, gap_s) for _ in range(64)]
    assert noticed.index(True) <= 40
    assert not fit.trusts(TENANT)
    _see(fit, [gap_s] * 200)
    assert fit.shifts == 1, "it is the same shift for as long as nothing fits"


def test_while_nothing_fits_it_is_said_again_and_again() -> None:
    fit = Fits()
    assert _see(fit, [EARLY_S] * 240) == 10


def test_gaps_that_are_more_regular_than_predicted_are_no_shift() -> None:
    fit = Fits()
    assert _see(fit, [MEDIAN_S] * 300) == 0
    assert fit.trusts(TENANT)
    assert fit.calibration().distance > 0.3, "it is reported all the same"


def test_trust_comes_back_when_gaps_are_as_predicted_again() -> None:
    dice = random.Random(1)
    fit = Fits()
    _see(fit, [EARLY_S] * 24)
    assert not fit.trusts(TENANT)
    _see(fit, _expected(dice, 23))
    assert not fit.trusts(TENANT), "too few to say"
    _see(fit, _expected(dice, 41))
    assert fit.trusts(TENANT)
    _see(fit, [EARLY_S] * 100)
    assert fit.shifts == 2


def test_between_alarm_and_calm_nothing_changes() -> None:
    """One gap in three comes early: too many to become trusted, too few to lose trust."""
    evenly = [PREDICTED.quantile((i + 0.5) / 16) for i in range(16)]
    often = [EARLY_S] * 8 + evenly
    off = distance(1 - PREDICTED.survival(gap_s) for gap_s in often)
    assert critical(24, 0.05) < off < critical(24, 1e-4)
    trusting, doubting = Fits(), Fits()
    _see(doubting, [EARLY_S] * 24)
    for fit, trusted in ((trusting, True), (doubting, False)):
        assert _see(fit, often) == 0
        assert fit.trusts(TENANT) is trusted


def test_a_gap_is_spread_over_its_bin() -> None:
    """Gaps of whole seconds are even if each second is as likely as it was predicted to be."""
    dice = random.Random(1)
    fit = Fits()
    for gap_s in _expected(dice, 2000):
        whole = GAPS.edges[GAPS.bin_of(gap_s)]
        assert not fit.saw(TENANT, PREDICTED, whole)
    assert fit.calibration().distance < 0.12


def test_calibration_counts_the_latest() -> None:
    fit = Fits()
    assert fit.calibration() == Calibration(0, 0.1, 0.5, 0.9, 0.0)
    evenly = [PREDICTED.quantile((i % 100 + 0.5) / 100.5) for i in range(200)]
    _see(fit, [1e6] * 100 + evenly)
    report = fit.calibration()
    assert report.gaps == 200
    assert report.before_10 == pytest.approx(0.1, abs=0.03)
    assert report.before_50 == pytest.approx(0.5, abs=0.03)
    assert report.before_90 == pytest.approx(0.9, abs=0.03)
    assert report.distance < 0.05


def test_what_one_tenant_s_sessions_do_says_nothing_of_another_s() -> None:
    dice = random.Random(1)
    fit = Fits()
    for gap_s in _expected(dice, 200):
        assert not fit.saw(OTHER, PREDICTED, gap_s)
        fit.saw(TENANT, PREDICTED, EARLY_S)
    assert not fit.trusts(TENANT)
    assert fit.trusts(OTHER)
    assert fit.trusts("nobody yet")
    assert (fit.distrusted, fit.shifts) == (1, 1)
    assert fit.calibration().gaps == 200


def test_tenants_are_bounded_and_those_not_seen_for_longest_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cache_tiers.returns.fit._MOST", 3)
    fit = Fits()
    for tenant in ("a", "b", "c"):
        for _ in range(24):
            fit.saw(tenant, PREDICTED, EARLY_S)
    assert fit.distrusted == 3
    fit.saw("a", PREDICTED, EARLY_S)
    fit.saw("d", PREDICTED, MEDIAN_S)
    assert [fit.trusts(tenant) for tenant in "abcd"] == [False, True, False, True]
    assert fit.distrusted == 2
