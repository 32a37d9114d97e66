"""Least recently used first: the baseline."""

from collections import OrderedDict
from collections.abc import Iterator

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import SessionKey


class Recency:
    """``PrefixPolicy``: whole chains, the session whose turn ended longest ago first."""

    def __init__(self) -> None:
        self._held: OrderedDict[SessionKey, int] = OrderedDict()
        """Chunks of every known session; the longest unused first."""
        self._busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.add(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.discard(session)
        self._held.setdefault(session, 0)
        self._held.move_to_end(session)

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._held[session] = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._held.pop(session, None)
        self._busy.discard(session)

    def victims(self, now: float) -> Iterator[Cut]:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        for session, held in list(self._held.items()):
            if held and session not in self._busy:
                yield Cut(session, 0)
