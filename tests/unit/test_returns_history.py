"""Counts of one class, against hazards worked out by hand."""

import math

import numpy as np
import pytest

from cache_tiers.returns.curve import Curve, Grid
from cache_tiers.returns.history import History, Tally

GRID = Grid(low=1.0, high=1e6, per_decade=2)
WIDER = np.full(GRID.bins, 0.1)


def _expected(place: int, back: float, at_risk: float) -> float:
    """With a strength of 2 gaps, of which a tenth comes back in each bin."""
    strength = 2 * max(0.9**place, 0.4)
    return (back + strength * 0.1) / (at_risk + strength)


def _history(strength: float = 2.0, half_life: int = 1000) -> History:
    return History(Tally(GRID), strength=strength, half_life=half_life)


def test_who_has_seen_nothing_expects_what_the_wider_class_does() -> None:
    assert _history().returning(WIDER) == pytest.approx(WIDER)


def test_the_hazard_is_those_back_over_those_at_risk() -> None:
    history = _history()
    for _ in range(4):
        history.came_back(6)
    returning = history.returning(WIDER)
    # A gap counts by half in its bin and by a quarter in each beside it.
    for place, back, at_risk in ((4, 0, 4), (5, 1, 4), (6, 2, 3), (7, 1, 1)):
        assert returning[place] == pytest.approx(_expected(place, back, at_risk))
    assert returning[8] == pytest.approx(0.1)


def test_at_the_ends_of_the_grid_no_gap_is_lost() -> None:
    history = _history()
    history.came_back(0)
    history.came_back(GRID.bins - 1)
    history.came_back(GRID.bins)
    returning = history.returning(WIDER)
    assert returning[0] == pytest.approx(_expected(0, 0.75, 3))
    assert returning[-1] == pytest.approx(_expected(GRID.bins - 1, 0.75, 1.75))


def test_who_was_lost_is_at_risk_until_then() -> None:
    history = _history()
    history.was_lost(5)
    returning = history.returning(WIDER)
    assert returning[4] == pytest.approx(_expected(4, 0, 1))
    assert returning[5] == pytest.approx(_expected(5, 0, 0.5))
    assert returning[6] == pytest.approx(0.1)
    assert returning.min() < 0.1, "a gap without an end makes shorter ones less likely"


def test_many_gaps_outweigh_the_wider_class() -> None:
    history = _history(strength=16)
    for _ in range(500):
        history.came_back(8)
    curve = Curve(GRID, history.returning(WIDER))
    assert GRID.bin_of(curve.quantile(0.5)) == 8


def test_old_gaps_fade() -> None:
    fading, keeping = _history(half_life=10), _history()
    for history in (fading, keeping):
        for place in [3] * 30 + [9] * 15:
            history.came_back(place)
    median = [Curve(GRID, history.returning(WIDER)).quantile(0.5) for history in (fading, keeping)]
    assert median[0] > GRID.edges[8], "the last third counts most"
    assert median[1] < GRID.edges[5], "two thirds count most"


def test_what_is_shrunk_is_easily_outweighed_and_not_forgotten() -> None:
    history = _history()
    for _ in range(200):
        history.came_back(3)
    history.shrink(10)
    shape = history.returning(WIDER)
    assert shape[3] == pytest.approx(_expected(3, 5, 7.5))
    history.shrink(50)
    assert history.returning(WIDER) is shape, "it is not blown up again"


def test_hazards_are_made_anew_when_something_material_has_changed() -> None:
    history = _history()
    for _ in range(320):
        history.came_back(3)
    before = history.returning(WIDER)
    for _ in range(9):
        history.came_back(4)
    assert history.returning(WIDER) is before
    history.came_back(4)
    after = history.returning(WIDER)
    assert after is not before
    assert history.returning(WIDER.copy()) is not after, "the wider class has changed"


def test_advantage_is_the_ratio_of_likelihoods() -> None:
    history = _history()
    for place in (3, 3, 4, 9, 0, GRID.bins):
        history.came_back(place)
    own = Curve(GRID, history.returning(WIDER))
    other = Curve(GRID, WIDER)

    def likelihood(curve: Curve, place: int) -> float:
        begins, ends = curve.bin_around(GRID.edges[place])
        return math.log(begins - ends)

    for place in range(GRID.bins + 1):
        expected = likelihood(own, place) - likelihood(other, place)
        assert history.advantage(WIDER, place) == pytest.approx(expected)


@pytest.mark.parametrize("end", ["back", "lost"])
def test_a_gap_that_is_told_of_in_parts_counts_once(end: str) -> None:
    parts, whole = _history(), _history()
    parts.lasts(3, 0)
    parts.lasts(5, 3)
    if end == "back":
        parts.came_back(7, 5)
        whole.came_back(7)
    else:
        parts.was_lost(7, 5)
        whole.was_lost(7)
    assert parts.returning(WIDER) == pytest.approx(whole.returning(WIDER))


def test_a_gap_counts_as_long_as_it_lasts() -> None:
    history = _history()
    history.lasts(5, 0)
    returning = history.returning(WIDER)
    assert returning[4] == pytest.approx(_expected(4, 0, 1))
    assert returning[5] == pytest.approx(0.1)
