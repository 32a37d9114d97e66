"""What prefetches were good for."""

import pytest

from cache_tiers.prefetch.tally import PrefetchCounts, PrefetchTally
from cache_tiers.types import SessionKey

A, B = SessionKey("t/a"), SessionKey("t/b")


def test_what_the_next_turn_finds_was_of_use() -> None:
    tally = PrefetchTally(chunk_bytes=100)
    tally.fetched(A, 2, 5)
    tally.fetched(A, 5, 10)
    tally.asked(A, 10)
    assert tally.counts == PrefetchCounts(fetched=8, used=8)
    assert tally.counts.precision == 1.0
    tally.asked(A, 10)
    assert tally.counts.used == 8


def test_what_leaves_first_was_wasted() -> None:
    tally = PrefetchTally(chunk_bytes=100)
    tally.fetched(A, 2, 10)
    tally.holds(A, 12)
    tally.holds(A, 6)
    tally.asked(A, 6)
    assert (tally.counts.used, tally.counts.wasted) == (4, 4)
    assert tally.wasted_bytes == 400
    tally.fetched(B, 0, 3)
    tally.forget(B)
    assert tally.counts.wasted == 7
    assert tally.counts.precision == pytest.approx(4 / 11)


def test_what_the_next_turn_does_not_want_was_wasted() -> None:
    tally = PrefetchTally(chunk_bytes=100)
    tally.fetched(A, 2, 10)
    tally.asked(A, 1)
    assert (tally.counts.used, tally.counts.wasted) == (0, 8)


def test_a_turn_that_comes_too_soon_waits() -> None:
    tally = PrefetchTally(chunk_bytes=100)
    tally.fetched(A, 0, 4)
    tally.asked(A, 4, coming=6)
    tally.asked(B, 0, coming=2)
    tally.waited(0.5)
    tally.waited(0.25)
    assert tally.counts == PrefetchCounts(fetched=4, used=4, late=8, late_turns=2, late_s=0.75)


def test_nothing_fetched_is_nothing_wasted() -> None:
    tally = PrefetchTally(chunk_bytes=100)
    tally.holds(A, 0)
    tally.asked(A, 5)
    assert tally.counts == PrefetchCounts()
    assert tally.counts.precision == 1.0
