"""Three queues without reordering: a baseline.

Yang, Zhang, Qiu, Yue and Rashmi, "FIFO Queues Are All You Need for Cache Eviction", SOSP 2023, for
sessions of many chunks: sizes of queues are chunks, and a turn is an access.
"""

from collections import deque
from collections.abc import Iterator

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import SessionKey

_SMALL = 0.1
"""Share of the capacity for what is new."""
_MOST_COUNTED = 3
_OFTEN = 2
"""Turns, since it came, that take a session from the small queue to the main one."""


class S3Fifo:
    """``PrefixPolicy``: whole chains. New sessions wait in a small queue; what has not had two
    turns at its end goes, and is remembered for a while. The others, and those remembered, are in
    the main queue, where each turn gives another round."""

    def __init__(self, capacity: int) -> None:
        """``capacity``: of the tier, in chunks."""
        self._capacity = capacity
        self._small: dict[SessionKey, int] = {}
        """Chunks by session; the end of the queue, which goes first, comes first."""
        self._main: dict[SessionKey, int] = {}
        self._ghosts: dict[SessionKey, int] = {}
        self._ghost_size = 0
        self._turns: dict[SessionKey, int] = {}
        """Of those in the queues, counted up to three."""
        self._busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.add(session)
        if session in self._turns:
            self._turns[session] = min(_MOST_COUNTED, self._turns[session] + 1)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.discard(session)

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        if session in self._main:
            queue = self._main
        elif session in self._small:
            queue = self._small
        else:
            queue = self._main if self._remembered(session) else self._small
        if chunks:
            queue[session] = chunks
            self._turns.setdefault(session, 0)
            return
        self._turns.pop(session, None)
        size = queue.pop(session, 0)
        if queue is self._small and size and session not in self._busy:
            self._remember(session, size)

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._remembered(session)
        for known in (self._small, self._main, self._turns):
            known.pop(session, None)
        self._busy.discard(session)

    def victims(self, now: float) -> Iterator[Cut]:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        small = deque(self._idle(self._small))
        main = deque(self._idle(self._main))
        size = sum(self._small.values())
        while small or main:
            if small and (size >= _SMALL * self._capacity or not main):
                session, chunks = small.popleft()
                size -= chunks
                if self._turns[session] >= _OFTEN:
                    self._main[session] = self._small.pop(session)
                    self._turns[session] = 0
                    main.append((session, chunks))
                    continue
            else:
                session, chunks = main.popleft()
                if self._turns[session]:
                    self._turns[session] -= 1
                    self._main[session] = self._main.pop(session)
                    main.append((session, chunks))
                    continue
            yield Cut(session, 0)

    def _idle(self, queue: dict[SessionKey, int]) -> list[tuple[SessionKey, int]]:
        return [(s, n) for s, n in queue.items() if s not in self._busy]

    def _remember(self, session: SessionKey, size: int) -> None:
        self._ghosts[session] = size
        self._ghost_size += size
        while self._ghost_size > (1 - _SMALL) * self._capacity:
            self._remembered(next(iter(self._ghosts)))

    def _remembered(self, session: SessionKey) -> bool:
        """Whether it was; it is not any more."""
        size = self._ghosts.pop(session, 0)
        self._ghost_size -= size
        return size > 0
