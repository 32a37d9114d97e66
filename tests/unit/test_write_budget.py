"""Bytes a day, by a clock that may be wrong and over processes that may die."""

import math

import pytest

from cache_tiers.endurance.budget import DAY_S, BudgetState, WriteBudget, bytes_per_day

DAILY = 86_400
"""A byte a second."""


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> WriteBudget:
    return WriteBudget(DAILY, clock)


def test_it_begins_full(budget: WriteBudget) -> None:
    assert budget.level == DAILY == budget.bytes_per_day
    assert budget.fraction_left == 1


def test_all_or_nothing(budget: WriteBudget) -> None:
    assert budget.take(DAILY - 10)
    assert not budget.take(11)
    assert budget.level == 10
    assert budget.take(10)
    assert not budget.take(1)
    assert budget.take(0)


def test_it_refills_evenly_up_to_a_day(budget: WriteBudget, clock: Clock) -> None:
    assert budget.take(DAILY)
    clock.now += 0.5
    assert not budget.take(1)
    clock.now += 0.5
    assert budget.take(1)
    clock.now += 3600
    assert budget.level == 3600
    assert budget.fraction_left == pytest.approx(1 / 24)
    clock.now += 10 * DAY_S
    assert budget.level == DAILY


def test_more_than_a_day_is_never_granted(budget: WriteBudget, clock: Clock) -> None:
    clock.now += 5 * DAY_S
    assert not budget.take(DAILY + 1)
    assert budget.level == DAILY


def test_a_clock_set_back_neither_mints_nor_destroys(budget: WriteBudget, clock: Clock) -> None:
    assert budget.take(DAILY - 100)
    clock.now -= 30 * DAY_S
    assert budget.level == 100
    clock.now += 60
    assert budget.level == 160


def test_a_clock_set_forward_mints_a_day_at_most(budget: WriteBudget, clock: Clock) -> None:
    assert budget.take(DAILY)
    clock.now += 1000 * DAY_S
    assert budget.level == DAILY


def test_a_restart_goes_on_where_it_was(budget: WriteBudget, clock: Clock) -> None:
    assert budget.take(DAILY - 5)
    saved = budget.state()
    assert saved == BudgetState(5.0, clock.now)
    clock.now += 100
    assert WriteBudget(DAILY, clock, saved).level == 105


def test_a_crash_loop_does_not_refill(clock: Clock) -> None:
    """Every process saves ahead, spends what it saved and is killed."""
    state, spent = WriteBudget(DAILY, clock).state(), 0
    for _ in range(1000):
        budget = WriteBudget(DAILY, clock, state)
        state = budget.state(ahead=100)
        while budget.unsaved + 30 <= 100 and budget.take(30):
            spent += 30
    assert DAILY * 0.8 < spent <= DAILY
    assert WriteBudget(DAILY, clock, state).level == 0


def test_what_is_unsaved(budget: WriteBudget) -> None:
    assert budget.unsaved == 0
    assert budget.take(7)
    assert not budget.take(DAILY)
    assert budget.unsaved == 7
    budget.state()
    assert budget.unsaved == 0


def test_saving_further_ahead_than_there_is(budget: WriteBudget, clock: Clock) -> None:
    assert budget.take(DAILY - 3)
    assert budget.state(ahead=10).level == 0
    assert budget.level == 3


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (BudgetState(10.0 * DAILY, 1_000_000.0), DAILY),
        (BudgetState(-5.0, 1_000_000.0), 0),
        (BudgetState(5.0, 9_000_000_000.0), 5),
        (BudgetState(5.0, -math.inf), 0),
        (BudgetState(math.nan, 1_000_000.0), 0),
    ],
)
def test_a_state_that_cannot_be(state: BudgetState, level: int, clock: Clock) -> None:
    assert WriteBudget(DAILY, clock, state).level == level


def test_a_smaller_budget_than_before(clock: Clock) -> None:
    saved = WriteBudget(DAILY, clock).state()
    assert WriteBudget(100, clock, saved).level == 100


def test_wrong_use(budget: WriteBudget, clock: Clock) -> None:
    with pytest.raises(ValueError, match="give back"):
        budget.take(-1)
    with pytest.raises(ValueError, match="at least a byte"):
        WriteBudget(0, clock)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GiB", 200 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        (" 1024B ", 1024),
        ("0.5 DWPD", 500),
        ("3dwpd", 3000),
    ],
)
def test_settings(text: str, size: int) -> None:
    assert bytes_per_day(text, capacity_bytes=1000) == size


@pytest.mark.parametrize("text", ["", "0", "0GiB", "0.0001 DWPD", "-1GiB", "5", "5GB", "1e3B", "x"])
def test_settings_that_mean_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="200GiB"):
        bytes_per_day(text, capacity_bytes=1000)
