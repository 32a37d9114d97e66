"""How much loads may move beside answers: what is learned of what they cost, and kept to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.pace import Pace

REST_S = 0.04
STEPS = 400


def moved_by(pace: Pace, chunk_s: float, *, wants: int = 1000) -> tuple[list[float], list[int]]:
    """Steps beside a load that takes all it may; every fifth has none beside it."""
    taken, moved = [], []
    for step in range(STEPS):
        allowed = pace.allowance(decodes=True)
        chunks = 0 if step % 5 == 0 else int(min(allowed, wants))
        seconds = REST_S + chunks * chunk_s
        pace.stepped(seconds, chunks, loads=step % 5 > 0)
        taken.append(seconds)
        moved.append(chunks)
    return taken, moved


@pytest.mark.parametrize("chunk_s", [0.0005, 0.002, 0.003])
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
        # Reading and copying cost 1 ms a chunk each, and are in different steps.
        pace.stepped(REST_S, 0, loads=False)
        pace.stepped(REST_S + 0.002, 0 if step % 2 else 2, loads=True)
    allowed = sum(pace.allowance(decodes=True) for _ in range(100))
    assert allowed == pytest.approx(100 * 0.05 * REST_S / 0.002, abs=1)


def test_a_device_that_copies_by_itself_is_not_limited() -> None:
    _, moved = moved_by(Pace(0.05), 0.0, wants=50)
    assert moved[-1] == 50


def test_nothing_is_limited_where_nothing_is_decoded_or_nothing_is_asked() -> None:
    pace = Pace(0.05)
    moved_by(pace, 0.002)
    assert pace.allowance(decodes=False) == math.inf
    free = Pace(None)
    moved_by(free, 0.002, wants=3)
    assert free.allowance(decodes=True) == math.inf


def test_one_long_step_changes_nothing() -> None:
    pace = Pace(0.05)
    moved_by(pace, 0.001)
    pace.stepped(2.0, 4, loads=True)
    _, moved = moved_by(pace, 0.001)
    assert sum(moved[:50]) > 0.6 * 40 * 0.05 * REST_S / 0.001


def test_a_load_has_an_end_whatever_it_costs() -> None:
    pace = Pace(0.05)
    _, moved = moved_by(pace, 1.0)
    assert sum(moved[-64:]) >= 24


def test_a_machine_that_became_faster_is_noticed() -> None:
    pace = Pace(0.05)
    _, before = moved_by(pace, 0.004)
    _, behind = moved_by(pace, 0.0005)
    assert sum(behind[-50:]) > 4 * sum(before[-50:])


@pytest.mark.parametrize("share", [0.0, -0.1])
def test_a_share_is_above_0(share: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pace(share)


@given(st.lists(st.tuples(st.floats(0.001, 0.5), st.integers(0, 20)), max_size=60))
def test_whatever_steps_take_an_allowance_is_a_count(steps: list[tuple[float, int]]) -> None:
    pace = Pace(0.05)
    for seconds, chunks in steps:
        pace.stepped(seconds, chunks, loads=chunks % 2 > 0)
        allowed = pace.allowance(decodes=True)
        assert allowed >= 0
        assert allowed == math.inf or allowed == int(allowed)
