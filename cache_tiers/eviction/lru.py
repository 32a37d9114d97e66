"""Least recently used first."""

from collections.abc import Iterable

from cache_tiers.eviction.policy import Candidate, Choice

_FEW = 0.25
"""A candidate of which at most this share is needed is worth emptying: four bytes are gained for
each that is written again."""


class LeastRecentlyUsed:
    """What holds no chunk that is needed goes before everything else: evicting it costs nothing.
    Then what is mostly dead or superseded goes, its few needed chunks copied forward; then the
    longest unused. What holds pinned chunks goes last, the least of them first, and few of them are
    copied forward too. Among equals the lowest id goes, so that a run can be repeated."""

    def choose(self, candidates: Iterable[Candidate]) -> Choice | None:
        first = min(candidates, key=_rank, default=None)
        if first is None:
            return None
        few = _needed(first) <= _FEW * first.bytes
        return Choice(first, copy_forward=few and _rank(first)[0] in (1, 3))


def _needed(candidate: Candidate) -> int:
    """What emptying it writes again."""
    return candidate.pinned_bytes or candidate.live_bytes - candidate.superseded_bytes


def _rank(candidate: Candidate) -> tuple[int, int, float, int]:
    needed = _needed(candidate)
    if candidate.pinned_bytes:
        kind = 3
    elif not candidate.chunks or (candidate.superseded_bytes and needed <= 0):
        kind = 0
    elif needed <= _FEW * candidate.bytes:
        kind = 1
    else:
        kind = 2
    return kind, candidate.pinned_bytes, candidate.last_used, candidate.id
