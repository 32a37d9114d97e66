"""What is worth the least for the room that it takes goes first."""

from collections.abc import Iterable

from cache_tiers.eviction.policy import Candidate, Choice

_FEW = 0.25
"""A candidate of which at most this share is needed is worth emptying: four bytes are gained for
each that is written again."""


class LeastWorth:
    """What holds no chunk that is needed goes before everything else: evicting it costs nothing.
    Then what is mostly dead or superseded goes, its few needed chunks copied forward; then what is
    worth the least a byte. What holds pinned chunks goes last, the least of them first, and few of
    them are copied forward too. Among equals, as all are while nobody knows what they are worth,
    the longest unused goes, and then the lowest id, so that a run can be repeated."""

    def choose(self, candidates: Iterable[Candidate]) -> Choice | None:
        first = min(candidates, key=_rank, default=None)
        if first is None:
            return None
        few = _needed(first) <= _FEW * first.bytes
        return Choice(first, copy_forward=few and _kind(first) in (1, 3))


def _needed(candidate: Candidate) -> int:
    """What emptying it writes again."""
    return candidate.pinned_bytes or candidate.live_bytes - candidate.superseded_bytes


def _kind(candidate: Candidate) -> int:
    needed = _needed(candidate)
    if candidate.pinned_bytes:
        return 3
    if not candidate.chunks or (candidate.superseded_bytes and needed <= 0):
        return 0
    return 1 if needed <= _FEW * candidate.bytes else 2


def _rank(candidate: Candidate) -> tuple[int, int, float, float, int]:
    return (
        _kind(candidate),
        candidate.pinned_bytes,
        candidate.worth / max(1, candidate.bytes),
        candidate.last_used,
        candidate.id,
    )
