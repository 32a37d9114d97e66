"""How fast a tier is, learned from its two numbers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.bandwidth import Bandwidth


def test_before_anything_came_it_is_as_expected() -> None:
    assert Bandwidth(0.001).chunk_s == 0.001


def test_it_learns_what_the_numbers_say() -> None:
    tier = Bandwidth(0.001)
    tier.look(10, 0.2)
    tier.look(30, 0.6)
    assert tier.chunk_s == pytest.approx(0.02)


def test_parts_of_a_sample_are_gathered() -> None:
    tier = Bandwidth(1.0)
    for _ in range(3):
        tier.add(1, 0.01)
    assert tier.chunk_s == 1.0
    tier.add(1, 0.01)
    assert tier.chunk_s == pytest.approx(0.01)


def test_one_disturbance_changes_nothing() -> None:
    tier = Bandwidth(0.001)
    for _ in range(5):
        tier.add(8, 0.08)
    tier.add(8, 30.0)
    assert tier.chunk_s == pytest.approx(0.01)


@pytest.mark.parametrize(("before", "after"), [(0.001, 1.0), (1.0, 0.001)])
def test_the_second_sample_tells_of_a_change(before: float, after: float) -> None:
    tier = Bandwidth(before)
    for _ in range(20):
        tier.add(4, 4 * before)
    for _ in range(2):
        tier.add(4, 4 * after)
    assert tier.chunk_s == pytest.approx(after)


def test_a_chunk_that_does_not_come_is_slow_at_once() -> None:
    tier = Bandwidth(0.001)
    tier.add(8, 0.008)
    tier.add(0, 3.0)
    assert tier.chunk_s == pytest.approx(3.0)
    tier.add(1, 0.0)
    assert tier.chunk_s == pytest.approx(0.001), "it came: one sample, and not the median"


def test_of_several_under_way_the_first_may_come_with_the_last() -> None:
    tier = Bandwidth(0.001)
    tier.look(8, 0.08)
    tier.look(8, 0.08 + 0.08, under_way=8)
    assert tier.chunk_s == pytest.approx(0.01), "as fast as before, and not there yet"
    tier.look(8, 0.08 + 0.8, under_way=8)
    assert tier.chunk_s == pytest.approx(0.1)


def test_of_several_that_share_the_tier_all_are_a_sample() -> None:
    """The first of a burst have taken the time of all, and those behind them none."""
    tier, came, busy_s = Bandwidth(0.001), 0, 0.0
    for _ in range(6):
        tier.look(came, busy_s, under_way=8)
        busy_s += 0.08
        for left in (6, 4, 2, 0):
            came += 2
            tier.look(came, busy_s, under_way=left)
            busy_s += 0.0001
        assert tier.chunk_s == pytest.approx(0.01, rel=0.05)


def test_what_does_not_come_of_several_holds_up_no_sample() -> None:
    tier = Bandwidth(0.001)
    tier.look(0, 0.0, under_way=8)
    tier.look(4, 0.08, under_way=4)
    assert tier.chunk_s == pytest.approx(0.01), "as if the others came now"
    tier.look(4, 0.08, under_way=0)
    assert tier.chunk_s == pytest.approx(0.02)


def test_numbers_that_start_anew_teach_nothing_wrong() -> None:
    tier = Bandwidth(0.001)
    tier.look(100, 1.0)
    tier.look(0, 0.0)
    tier.look(100, 1.0)
    assert tier.chunk_s == pytest.approx(0.01)


def test_it_averages_noise() -> None:
    dice, tier = random.Random(1), Bandwidth(0.001)
    for _ in range(50):
        tier.add(8, 8 * 0.02 * dice.uniform(0.7, 1.3))
    assert tier.chunk_s == pytest.approx(0.02, rel=0.3)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=30))
def test_it_is_never_negative(numbers: list[tuple[float, float]]) -> None:
    tier = Bandwidth(0.001)
    for chunks, busy_s in numbers:
        tier.look(chunks, busy_s)
    assert tier.chunk_s >= 0
