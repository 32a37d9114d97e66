"""Who goes first."""

from cache_tiers.eviction.lru import LeastRecentlyUsed
from cache_tiers.eviction.policy import Candidate


def choose(*candidates: Candidate) -> int | None:
    chosen = LeastRecentlyUsed().choose(candidates)
    return chosen.id if chosen else None


def test_nobody() -> None:
    assert choose() is None


def test_the_least_recently_used() -> None:
    assert choose(Candidate(1, 9, 30.0, 2), Candidate(2, 9, 10.0, 2), Candidate(3, 9, 20.0, 2)) == 2


def test_what_holds_nothing_before_everything_else() -> None:
    assert choose(Candidate(1, 9, 10.0, 1), Candidate(2, 9, 99.0, 0)) == 2


def test_ties_go_by_id() -> None:
    assert choose(Candidate(5, 9, 10.0, 1), Candidate(4, 9, 10.0, 1)) == 4
