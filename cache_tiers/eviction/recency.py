"""Least recently used first: a baseline."""

from collections.abc import Iterator

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import SessionKey


class Recency:
    """``PrefixPolicy``: whole chains, the session whose turn ended longest ago first."""

    def __init__(self) -> None:
        self._held: dict[SessionKey, int] = {}
        """Chunks of each session, the one whose turn ended longest ago first."""
        self._busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.add(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.discard(session)
        self._held[session] = self._held.pop(session, 0)

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._held[session] = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._held.pop(session, None)
        self._busy.discard(session)

    def victims(self, now: float) -> Iterator[Cut]:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        idle = [s for s, chunks in self._held.items() if chunks and s not in self._busy]
        for session in idle:
            yield Cut(session, 0)
