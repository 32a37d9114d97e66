"""Least recently used first."""

from collections.abc import Iterable

from cache_tiers.eviction.policy import Candidate


class LeastRecentlyUsed:
    """What holds no chunk goes before everything else: evicting it costs nothing. Among equals
    the lowest id goes, so that a run can be repeated."""

    def choose(self, candidates: Iterable[Candidate]) -> Candidate | None:
        return min(candidates, key=lambda c: (c.chunks > 0, c.last_used, c.id), default=None)
