"""What a prefill costs, learned from prefills."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.prefill_cost import PrefillCost


def _true(a: float, b: float, start: int, end: int) -> float:
    return a * (end - start) + b * (end**2 - start**2) / 2


def test_nothing_is_known_at_first() -> None:
    assert PrefillCost().cost(0, 1000) == 0


def test_it_finds_the_curve() -> None:
    cost = PrefillCost()
    for start, end in [(0, 500), (0, 2000), (1000, 4000), (6000, 6100), (0, 8000)]:
        cost.observe(start, end, _true(1.5, 0.0007, start, end))
    assert cost.cost(0, 6016) == pytest.approx(_true(1.5, 0.0007, 0, 6016))
    assert cost.cost(3000, 3100) == pytest.approx(_true(1.5, 0.0007, 3000, 3100))


def test_short_prefills_say_nothing() -> None:
    cost = PrefillCost()
    cost.observe(4096, 4104, 130)
    assert cost.cost(0, 4096) == 0


def test_it_averages_noise() -> None:
    dice, cost = random.Random(1), PrefillCost()
    for _ in range(300):
        start = dice.randrange(0, 6000)
        end = start + dice.randrange(50, 2000)
        cost.observe(start, end, _true(2.0, 0.0005, start, end) * dice.uniform(0.8, 1.2))
    assert cost.cost(0, 4000) == pytest.approx(_true(2.0, 0.0005, 0, 4000), rel=0.1)


def test_it_forgets() -> None:
    cost = PrefillCost()
    for _ in range(50):
        cost.observe(0, 1000, 1000)
    for _ in range(500):
        cost.observe(0, 1000, 5000)
    assert cost.cost(0, 1000) == pytest.approx(5000, rel=0.02)


def test_falling_costs_do_not_make_a_negative_slope() -> None:
    cost = PrefillCost()
    cost.observe(0, 100, 1000)
    cost.observe(5000, 5100, 10)
    assert cost.cost(0, 100) > 0
    assert cost.cost(50_000, 50_100) > 0


def test_a_steep_start_does_not_make_a_negative_price() -> None:
    cost = PrefillCost()
    cost.observe(0, 100, 1)
    cost.observe(5000, 5100, 100_000)
    assert cost.cost(0, 10) >= 0


_PREFILLS = st.tuples(st.integers(0, 10**6), st.integers(1, 10**5), st.floats(0.001, 10**7))


@given(st.lists(_PREFILLS, max_size=30), st.integers(0, 10**6), st.integers(0, 10**5))
def test_costs_are_never_negative_and_grow(
    prefills: list[tuple[int, int, float]], start: int, tokens: int
) -> None:
    cost = PrefillCost()
    for at, length, ms in prefills:
        cost.observe(at, at + length, ms)
    assert cost.cost(start, start + tokens) >= 0
    assert cost.cost(start, start + tokens + 1) >= cost.cost(start, start + tokens)


@pytest.mark.parametrize(("start", "end", "ms"), [(5, 5, 1.0), (7, 3, 1.0), (0, 9, 0.0)])
def test_what_cannot_be_a_prefill_is_ignored(start: int, end: int, ms: float) -> None:
    cost = PrefillCost()
    cost.observe(start, end, ms)
    assert cost == PrefillCost()


def test_pieces_of_several_prompts_are_learned_from_together() -> None:
    cost = PrefillCost()
    for pieces in ([(0, 500), (3000, 3400)], [(0, 900)], [(100, 200), (5000, 6000), (7, 7)]):
        ms = sum(_true(1.5, 0.0007, start, end) for start, end in pieces)
        cost.observe_together(pieces, ms)
    assert cost.cost(0, 6016) == pytest.approx(_true(1.5, 0.0007, 0, 6016))


def test_one_that_forgets_sooner_follows_sooner() -> None:
    slow, quick = PrefillCost(), PrefillCost(forget=0.5)
    for cost in (slow, quick):
        for ms in (1000, 1000, 1000, 5000, 5000, 5000):
            cost.observe(0, 1000, ms)
    assert slow.cost(0, 1000) == pytest.approx(3000, rel=0.1)
    assert quick.cost(0, 1000) > 4400
