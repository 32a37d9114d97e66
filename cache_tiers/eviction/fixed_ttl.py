"""Kept for a fixed time after each turn, as prompt caches are sold: a baseline."""

import math
from collections.abc import Iterator

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import SessionKey


class FixedTtl:
    """``PrefixPolicy``: whole chains. What has not been used for ``ttl_s`` goes first, the longest
    unused first. What is within its time has a claim on its room, and the oldest claim is the best:
    if one has to go, it is the newest."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._held: dict[SessionKey, int] = {}
        """Chunks of each session, the one whose turn ended longest ago first."""
        self._ended_at: dict[SessionKey, float] = {}
        self._busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.add(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.discard(session)
        self._held[session] = self._held.pop(session, 0)
        self._ended_at[session] = now

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._held[session] = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._held.pop(session, None)
        self._ended_at.pop(session, None)
        self._busy.discard(session)

    def victims(self, now: float) -> Iterator[Cut]:
        """See ``PrefixPolicy``."""
        idle = [s for s, chunks in self._held.items() if chunks and s not in self._busy]
        claimed = [s for s in idle if self._ended_at.get(s, -math.inf) + self._ttl_s > now]
        over = [session for session in idle if session not in set(claimed)]
        for session in (*over, *reversed(claimed)):
            yield Cut(session, 0)
