"""How much loads may move beside answers: what is learned of what they cost, and kept to."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.pace import Pace

REST_S = 0.04
COMPUTE_S = 0.1
"""A chunk, beside which it may be loaded at half a chunk a step."""
STEPS = 400


def moved_by(pace: Pace, chunk_s: float, *, wants: int = 1000) -> tuple[list[float], list[int]]:
    """Steps beside a load that takes all it may; every fifth has none beside it."""
    taken, moved = [], []
    for step in range(STEPS):
        allowed = pace.allowance(decodes=True, compute_s=COMPUTE_S)
        chunks = 0 if step % 5 == 0 else int(min(allowed, wants))
        seconds = REST_S + chunks * chunk_s
        pace.stepped(seconds, chunks, sequences=3, loads=step % 5 > 0)
        taken.append(seconds)
        moved.append(chunks)
    return taken, moved


@pytest.mark.parametrize("chunk_s", [0.0005, 0.001, 0.0018])
def test_steps_become_longer_by_the_share_and_no_more(chunk_s: float) -> None:
    taken, moved = moved_by(Pace(0.05), chunk_s)
    learned = slice(STEPS // 4, None)
    loaded = [s for s, chunks in zip(taken[learned], moved[learned], strict=True) if chunks]
    beside = [n for i, n in enumerate(moved[learned]) if (STEPS // 4 + i) % 5]
    assert sum(beside) / len(beside) == pytest.approx(0.05 * REST_S / chunk_s, rel=0.1)
    assert max(loaded) <= REST_S + chunk_s * (1 + 0.05 * REST_S / chunk_s)


def test_what_is_read_ahead_is_paid_for_too() -> None:
    pace = Pace(0.05)
    for step in range(STEPS):
        # Reading and copying cost half a millisecond a chunk each, and are in different steps.
        pace.stepped(REST_S, 0, sequences=3, loads=False)
        pace.stepped(REST_S + 0.001, 0 if step % 2 else 2, sequences=3, loads=True)
    allowed = sum(pace.allowance(decodes=True, compute_s=COMPUTE_S) for _ in range(100))
    assert allowed == pytest.approx(100 * 0.05 * REST_S / 0.001, abs=1)


def test_a_device_that_copies_by_itself_is_not_limited() -> None:
    _, moved = moved_by(Pace(0.05), 0.0, wants=50)
    assert moved[-1] == 50


def test_nothing_is_limited_where_nothing_is_decoded_or_nothing_is_asked() -> None:
    pace = Pace(0.05)
    moved_by(pace, 0.002)
    assert pace.allowance(decodes=False, compute_s=COMPUTE_S) == math.inf
    free = Pace(None)
    moved_by(free, 0.002, wants=3)
    assert free.allowance(decodes=True, compute_s=COMPUTE_S) == math.inf


def test_one_long_step_changes_nothing() -> None:
    pace = Pace(0.05)
    moved_by(pace, 0.001)
    pace.stepped(2.0, 4, sequences=3, loads=True)
    _, moved = moved_by(pace, 0.001)
    assert sum(moved[:50]) > 0.6 * 40 * 0.05 * REST_S / 0.001


def test_a_load_has_an_end_whatever_it_costs() -> None:
    pace = Pace(0.05)
    _, moved = moved_by(pace, 1.0)
    assert sum(moved[-64:]) >= 48


def test_a_machine_that_became_faster_is_noticed() -> None:
    pace = Pace(0.05)
    _, before = moved_by(pace, 0.002)
    _, behind = moved_by(pace, 0.0002)
    assert sum(behind[-50:]) > 4 * sum(before[-50:])


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_steps_that_vary_by_more_than_loads_cost_are_no_slower_for_it(noise: float) -> None:
    """Loads of 60 chunks of 0.9 ms, between 20 steps without any."""
    dice = random.Random(1)
    pace = Pace(0.05)
    slower = []
    for load in range(60):
        for _ in range(20):
            pace.stepped(REST_S * dice.lognormvariate(0, noise), 0, sequences=3, loads=False)
        left, steps = 60.0, 0
        while left > 0:
            chunks = min(left, pace.allowance(decodes=True, compute_s=COMPUTE_S))
            seconds = REST_S * dice.lognormvariate(0, noise) + chunks * 0.0009
            pace.stepped(seconds, int(chunks), sequences=3, loads=True)
            left, steps = left - chunks, steps + 1
        if load >= 20:
            slower.append(60 * 0.0009 / (steps * REST_S))
    assert statistics.median(slower) == pytest.approx(0.05, rel=0.25)
    assert max(slower) < 0.1


def test_more_sequences_take_longer_without_any_load() -> None:
    pace = Pace(0.05)
    for step in range(STEPS):
        sequences = 3 if step % 40 < 20 else 12
        rest_s = REST_S * (1 + sequences / 10)
        pace.stepped(rest_s, 0, sequences=sequences, loads=False)
        pace.stepped(rest_s + 2 * 0.001, 2, sequences=sequences, loads=True)
    allowed = sum(pace.allowance(decodes=True, compute_s=COMPUTE_S) for _ in range(100))
    assert allowed == pytest.approx(100 * 0.05 * rest_s / 0.001, rel=0.05)


def test_steps_of_which_some_are_long_without_any_load_hold_nothing_back() -> None:
    """Loads cost nothing here; a tenth of all steps takes half as long again."""
    dice = random.Random(1)
    pace = Pace(0.05)
    moved = []
    for step in range(4 * STEPS):
        seconds = REST_S * (1.5 if dice.random() < 0.1 else dice.lognormvariate(0, 0.03))
        loads = step % 60 > 20
        allowed = pace.allowance(decodes=True, compute_s=COMPUTE_S)
        chunks = int(min(allowed, 20)) if loads else 0
        pace.stepped(seconds, chunks, sequences=3, loads=loads)
        moved += [chunks] if loads else []
    assert statistics.fmean(moved[len(moved) // 2 :]) > 5


def test_a_load_that_is_held_back_is_faster_than_computing_all_the_same() -> None:
    pace = Pace(0.05)
    moved_by(pace, 1.0)
    allowed = [pace.allowance(decodes=True, compute_s=REST_S / 4) for _ in range(10)]
    assert sum(allowed) == pytest.approx(10 * 4 * 1.25, abs=1)
    new = Pace(0.05)
    new.stepped(REST_S, 0, sequences=1, loads=False)
    assert new.allowance(decodes=True, compute_s=REST_S / 16) == 4, "a step's time is not known"
    for _ in range(5):
        new.stepped(REST_S, 0, sequences=1, loads=False)
    assert new.allowance(decodes=True, compute_s=REST_S / 16) == 20


@pytest.mark.parametrize("share", [0.0, -0.1])
def test_a_share_is_above_0(share: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pace(share)


@given(
    st.lists(st.tuples(st.floats(0.001, 0.5), st.integers(0, 20)), max_size=60),
    st.booleans(),
    st.floats(0, 1),
)
def test_whatever_steps_take_an_allowance_is_a_count(
    steps: list[tuple[float, int]], learned: bool, compute_s: float
) -> None:
    pace = Pace(0.05)
    if learned:
        moved_by(pace, 0.001)
    for seconds, chunks in steps:
        pace.stepped(seconds, chunks, sequences=chunks % 3, loads=chunks % 2 > 0)
        allowed = pace.allowance(decodes=True, compute_s=compute_s)
        assert allowed >= 1
        assert allowed == math.inf or allowed == int(allowed)
