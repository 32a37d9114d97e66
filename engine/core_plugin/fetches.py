"""Chunks on their way from SSD to DRAM that no load has asked for yet. Scheduler thread only.

*Urgent* ones are for a request that has begun to arrive or waits to be scheduled: they are read at
once, as far as DRAM has room. *Planned* ones are for sessions that are expected back: they are read
while no request waits for a load, a few at a time, so that a load that begins has the disk to
itself after a few milliseconds. What arrives is pinned by nobody; the order of eviction knows its
session.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.manager import CHUNKS_PER_READ, TierManager

Piece = tuple[int, ChunkKey]
"""A chunk, and its place in its session's chain."""

PLANNED_AT_ONCE = 2 * CHUNKS_PER_READ
"""Chunks that are read for plans at the same time: one read under way, one queued."""


class Fetches:
    """See the module's docstring. A ``ReadWaiter`` of the manager."""

    def __init__(self, manager: TierManager) -> None:
        self._manager = manager
        self._urgent: dict[SessionKey, deque[Piece]] = {}
        self._planned: dict[SessionKey, deque[Piece]] = {}
        self._reading: dict[ChunkKey, tuple[SessionKey, int]] = {}
        self._starting: tuple[SessionKey, dict[ChunkKey, int]] | None = None
        """Whose reads are being started, and the place of each."""
        self.on_failing: Callable[[SessionKey, MissReason], None] = lambda *_: None
        """Told of a chunk that could not be read: what follows it is not fetched."""
        self.on_fetched: Callable[[SessionKey, int], None] = lambda *_: None
        """Told of each chunk that is in DRAM now: its place in its session's chain."""

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._urgent or self._planned or self._reading)

    @property
    def planned(self) -> bool:
        """Whether a plan is being carried out."""
        return bool(self._planned)

    def want(self, session: SessionKey, pieces: Iterable[Piece]) -> None:
        """Bring these up at once, in this order; what is on its way or in DRAM already stays."""
        away = deque(self._missing(pieces))
        self._planned.pop(session, None)
        if away:
            self._urgent[session] = away

    def follow(self, plan: Sequence[tuple[SessionKey, Sequence[Piece]]]) -> None:
        """Bring these up next, the most urgent first. What was planned before and is not among them
        is cancelled; what is being read for it arrives."""
        self._planned = {
            session: away
            for session, pieces in plan
            if session not in self._urgent and (away := deque(self._missing(pieces)))
        }

    def forget(self, session: SessionKey) -> None:
        """The session's request has its own load now, or the session is gone."""
        self._urgent.pop(session, None)
        self._planned.pop(session, None)

    def flying(self, session: SessionKey) -> int:
        """Chunks being read for a session."""
        return sum(owner == session for owner, _ in self._reading.values())

    def advance(self, now: float, *, loads_wait: bool) -> None:
        """Start what may be started. ``loads_wait``: a request waits for a load."""
        for session in list(self._urgent):
            self._start(session, self._urgent, now, len(self._urgent[session]))
        if loads_wait:
            return
        while self._planned and len(self._reading) <= PLANNED_AT_ONCE - CHUNKS_PER_READ:
            under_way = len(self._reading)
            self._start(next(iter(self._planned)), self._planned, now, CHUNKS_PER_READ)
            if len(self._reading) == under_way:
                return

    def _start(
        self,
        session: SessionKey,
        queues: dict[SessionKey, deque[Piece]],
        now: float,
        most: int,
    ) -> None:
        queue = queues[session]
        pieces = [queue.popleft() for _ in range(min(most, len(queue)))]
        places = {key: place for place, key in pieces}
        self._starting = session, places
        self._manager.bring(list(places), self, now, break_pins=False, owner=session)
        queue.extendleft(reversed(self._missing(pieces)))
        if not queue:
            queues.pop(session, None)

    def _missing(self, pieces: Iterable[Piece]) -> list[Piece]:
        dram, ssd = self._manager.dram, self._manager.ssd
        if ssd is None:
            return []
        return [
            (place, key)
            for place, key in pieces
            if not dram.has_or_awaits(key) and ssd.contains(key)
        ]

    # --- ReadWaiter -----------------------------------------------------------------------------

    def wants(self, key: ChunkKey) -> bool:
        """See ReadWaiter."""
        return key in self._reading

    def on_reading(self, keys: Iterable[ChunkKey]) -> None:
        """See ReadWaiter."""
        assert self._starting is not None
        session, places = self._starting
        self._reading.update({key: (session, places[key]) for key in keys})

    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None:
        """See ReadWaiter."""
        for key in list(keys):
            self._manager.unpin([key])
            awaited = self._reading.pop(key, None)
            if awaited is not None:
                self._manager.mark_prefetched([key])
                self.on_fetched(*awaited)

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        """See ReadWaiter. What follows in its chain would be useless."""
        awaited = self._reading.pop(key, None)
        if awaited is not None:
            self.forget(awaited[0])
            self.on_failing(awaited[0], reason)
