"""Who goes first."""

import math

from cache_tiers.eviction.least_worth import LeastWorth
from cache_tiers.eviction.policy import Candidate


def choose(*candidates: Candidate) -> int | None:
    chosen = LeastWorth().choose(candidates)
    return chosen.candidate.id if chosen else None


def full(id: int, last_used: float, chunks: int = 2) -> Candidate:
    return Candidate(id, 9, last_used, chunks, live_bytes=9)


def test_nobody() -> None:
    assert choose() is None


def test_the_least_recently_used() -> None:
    assert choose(full(1, 30.0), full(2, 10.0), full(3, 20.0)) == 2


def test_what_holds_nothing_before_everything_else() -> None:
    assert choose(full(1, 10.0), Candidate(2, 9, 99.0, 0)) == 2


def test_what_is_superseded_counts_as_dead() -> None:
    left_behind = Candidate(2, 100, 99.0, 4, live_bytes=100, superseded_bytes=100)
    assert choose(full(1, 10.0), left_behind) == 2
    mostly = Candidate(3, 100, 99.0, 4, live_bytes=100, superseded_bytes=80)
    choice = LeastWorth().choose([full(1, 10.0), mostly])
    assert choice is not None
    assert (choice.candidate.id, choice.copy_forward) == (3, True)


def test_what_holds_pinned_chunks_goes_last_and_the_least_of_them_first() -> None:
    much = Candidate(1, 100, 1.0, 4, live_bytes=100, pinned_bytes=90)
    little = Candidate(2, 100, 2.0, 4, live_bytes=10, superseded_bytes=5, pinned_bytes=5)
    assert choose(much, little, full(3, 30.0)) == 3
    assert choose(much, little) == 2


def test_ties_go_by_id() -> None:
    assert choose(full(5, 10.0), full(4, 10.0)) == 4


def test_what_is_mostly_dead_is_emptied_before_anything_live_goes() -> None:
    mostly_dead = Candidate(2, 100, 99.0, 1, live_bytes=25)
    choice = LeastWorth().choose([full(1, 10.0), mostly_dead])
    assert choice is not None
    assert (choice.candidate.id, choice.copy_forward) == (2, True)
    alone = LeastWorth().choose([full(1, 10.0)])
    assert alone is not None
    assert not alone.copy_forward


def worth(id: int, worth: float, last_used: float = 10.0, **changes: int) -> Candidate:
    return Candidate(id, 100, last_used, 4, **{"live_bytes": 100, **changes}, worth=worth)


def test_what_is_worth_the_least_though_it_was_used_last() -> None:
    assert choose(worth(1, 0.2), worth(2, 0.1, last_used=99.0), worth(3, math.inf)) == 2


def test_it_is_the_worth_of_the_room_that_counts() -> None:
    small = Candidate(1, 10, 10.0, 4, live_bytes=10, worth=0.05)
    assert choose(small, worth(2, 0.1)) == 2


def test_among_equals_the_longest_unused() -> None:
    assert choose(worth(1, 0.1, last_used=20.0), worth(2, 0.1)) == 2


def test_worth_says_nothing_against_what_is_not_needed_and_leases() -> None:
    unneeded = worth(1, 9.0, superseded_bytes=100)
    few = worth(2, 5.0, superseded_bytes=90)
    leased = worth(3, 0.0, pinned_bytes=90)
    assert choose(leased, worth(4, 0.1), few, unneeded) == 1
    assert choose(leased, worth(4, 0.1), few) == 2
    assert choose(leased, worth(4, 0.1)) == 4


def test_of_what_holds_as_many_pinned_chunks_the_least_worth() -> None:
    assert choose(worth(1, 0.2, pinned_bytes=50), worth(2, 0.1, pinned_bytes=50)) == 2
