"""Adaptive replacement: a baseline.

Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, for sessions of
many chunks instead of pages: every length there is a number of chunks here. A chain that was cut
in part is in the cache with what is left of it and among the ghosts with what is not.
"""

from collections.abc import Iterator

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import SessionKey


class _Queue:
    """Chunks by session, the longest unused first."""

    def __init__(self) -> None:
        self.chunks: dict[SessionKey, int] = {}
        self.size = 0

    def put(self, session: SessionKey, chunks: int) -> None:
        """A new one goes behind all others, one that is there stays where it is."""
        self.size += chunks - self.chunks.get(session, 0)
        self.chunks[session] = chunks

    def take(self, session: SessionKey) -> int:
        chunks = self.chunks.pop(session, 0)
        self.size -= chunks
        return chunks

    def shrink(self, size: float) -> None:
        """Drop the oldest until no more than ``size`` is left."""
        while self.size > size:
            self.take(next(iter(self.chunks)))


class AdaptiveReplacement:
    """``PrefixPolicy``: whole chains of sessions that had one turn, or of those that had more, by
    which of the two was lately missed more; the longest unused first."""

    def __init__(self, capacity: int) -> None:
        """``capacity``: of the tier, in chunks."""
        self._capacity = capacity
        self._once, self._often = _Queue(), _Queue()
        """T1 and T2."""
        self._once_gone, self._often_gone = _Queue(), _Queue()
        """Their ghosts, B1 and B2."""
        self._target = 0.0
        """Of T1: ``p``."""
        self._busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.add(session)
        once, often = self._once_gone, self._often_gone
        known = session in self._once.chunks or session in self._often.chunks
        if session in once.chunks:
            known = True
            weight = max(1.0, often.size / max(1, once.size))
            self._target += weight * once.take(session)
        if session in often.chunks:
            known = True
            weight = max(1.0, once.size / max(1, often.size))
            self._target -= weight * often.take(session)
        self._target = min(max(self._target, 0.0), float(self._capacity))
        chunks = self._once.take(session) + self._often.take(session)
        (self._often if known else self._once).put(session, chunks)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._busy.discard(session)
        queue = self._queue(session)
        queue.put(session, queue.take(session))

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        queue = self._queue(session)
        gone = self._once_gone if queue is self._once else self._often_gone
        cut = queue.chunks.get(session, 0) - chunks
        if cut > 0 and session not in self._busy:
            gone.put(session, gone.take(session) + cut)
        if chunks or session in self._busy:
            queue.put(session, chunks)
        else:
            queue.take(session)
        self._once_gone.shrink(max(0, self._capacity - self._once.size))
        self._often_gone.shrink(
            max(0, 2 * self._capacity - self._once.size - self._often.size - self._once_gone.size)
        )

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._busy.discard(session)
        for queue in (self._once, self._often, self._once_gone, self._often_gone):
            queue.take(session)

    def victims(self, now: float) -> Iterator[Cut]:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        once, often = self._idle(self._once), self._idle(self._often)
        size = self._once.size
        while once or often:
            if once and (size > self._target or not often):
                session, chunks = once.pop()
                size -= chunks
            else:
                session, _ = often.pop()
            yield Cut(session, 0)

    def _idle(self, queue: _Queue) -> list[tuple[SessionKey, int]]:
        """The longest unused last."""
        idle = [(s, n) for s, n in queue.chunks.items() if n and s not in self._busy]
        idle.reverse()
        return idle

    def _queue(self, session: SessionKey) -> _Queue:
        """Where a session is; those that are new have had one turn."""
        return self._often if session in self._often.chunks else self._once
