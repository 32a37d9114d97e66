"""How the time per token of others is read from when their tokens came."""

from typing import Any

import pytest

from load.bench_stall import (
    TAIL,
    Origin,
    Turn,
    draw,
    fault_of,
    judge,
    per_token,
    tokens_within,
    windows,
)
from load.report import Interval

EVEN = [float(number) for number in range(11)]


def test_tokens_at_the_edges_count_in_part() -> None:
    assert tokens_within(EVEN, 2.0, 5.0) == pytest.approx(3)
    assert tokens_within(EVEN, 2.5, 4.75) == pytest.approx(2.25)
    assert tokens_within(EVEN, 2.2, 2.4) == pytest.approx(0.2)
    assert tokens_within(EVEN, 0.0, 10.0) == pytest.approx(10)
    assert tokens_within([0.0, 1.0, 5.0, 6.0], 0.5, 3.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 3.0), (3.0, 10.1)])
def test_a_stream_that_does_not_decode_all_the_while_says_nothing(begin: float, end: float) -> None:
    assert tokens_within(EVEN, begin, end) is None
    assert tokens_within([], 0.0, 1.0) is None
    assert per_token([EVEN, EVEN], begin, end) is None


def test_streams_are_taken_together() -> None:
    twice = [number / 2 for number in range(21)]
    assert per_token([EVEN, twice], 2.0, 4.0) == pytest.approx(2 * 2 / (2 + 4))


def test_a_turn_from_ssd_is_compared_with_the_next_from_the_device() -> None:
    times = [0.0, 1.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    turns = [
        Turn(Origin.SSD, 2.0, 4.0, None),
        Turn(Origin.DEVICE, 6.0, 0.1, None),
        Turn(Origin.SSD, 7.0, 1.0, "lost"),
        Turn(Origin.DEVICE, 8.0, 0.1, None),
        Turn(Origin.SSD, 9.0, 0.5, None),
    ]
    (window,) = windows(turns, [times], 3)
    assert (window.round, window.seconds) == (3, 4.0)
    assert window.ratio == pytest.approx(2.0)


def receipt(**reused: int) -> dict[str, Any]:
    by_tier = {"device": 0, "dram": 0, "ssd": 0} | reused
    return {"prompt_tokens": 2048 + TAIL, "reused_tokens": by_tier}


def test_a_receipt_proves_where_the_prefix_was() -> None:
    assert fault_of(Origin.SSD, receipt(ssd=2048)) is None
    assert fault_of(Origin.SSD, receipt(ssd=1024, device=1024)) is None
    assert fault_of(Origin.SSD, receipt(ssd=1024)) is not None
    assert fault_of(Origin.DEVICE, receipt(device=2048)) is None
    assert fault_of(Origin.DEVICE, receipt(ssd=2048)) is not None
    assert fault_of(Origin.DEVICE, {}) is not None


def test_the_whole_interval_must_lie_on_one_side() -> None:
    def interval(low: float, high: float) -> Interval:
        return Interval(9, (low + high) / 2, low, high, 0.95)

    assert judge(interval(1.0, 1.04)) is True
    assert judge(interval(1.06, 1.2)) is False
    assert judge(interval(1.0, 1.2)) is None
    assert judge(None) is None


def test_the_table_says_what_was_seen() -> None:
    turns = [Turn(Origin.SSD, 2.0, 0.2, None), Turn(Origin.DEVICE, 6.0, 0.1, None)]
    told = draw(turns, windows(turns, [EVEN], 0), Interval(1, 1.0, 0.9, 1.1, 0.95))
    assert "from SSD" in told
    assert "1.000 (0.900–1.100, 95%), of 1 windows" in told
    assert "–" in draw([], [], None)
