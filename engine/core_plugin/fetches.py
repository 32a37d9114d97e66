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

PLANNED_AT_ONCE = 2 * CHUNKS_PER_READ
"""Chunks that are read for plans at the same time: one read under way, one queued."""


class Fetches:
    """See the module's docstring. A ``ReadWaiter`` of the manager."""

    def __init__(self, manager: TierManager) -> None:
        self._manager = manager
        self._urgent: dict[SessionKey, deque[ChunkKey]] = {}
        self._planned: dict[SessionKey, deque[ChunkKey]] = {}
        self._reading: dict[ChunkKey, SessionKey] = {}
        self._starting: SessionKey | None = None
        """Whose reads are being started."""
        self.on_fetched: Callable[[SessionKey, ChunkKey], None] = lambda *_: None
        """Told of each chunk that is in DRAM now."""

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._urgent or self._planned or self._reading)

    @property
    def planned(self) -> bool:
        """Whether a plan is being carried out."""
        return bool(self._planned)

    def want(self, session: SessionKey, keys: Iterable[ChunkKey]) -> None:
        """Bring these up at once, in this order; what is on its way or in DRAM already stays."""
        away = deque(self._missing(keys))
        self._planned.pop(session, None)
        if away:
            self._urgent[session] = away

    def follow(self, plan: Sequence[tuple[SessionKey, Sequence[ChunkKey]]]) -> None:
        """Bring these up next, the most urgent first. What was planned before and is not among them
        is cancelled; what is being read for it arrives."""
        self._planned = {
            session: away
            for session, keys in plan
            if session not in self._urgent and (away := deque(self._missing(keys)))
        }

    def forget(self, session: SessionKey) -> None:
        """The session's request has its own load now, or the session is gone."""
        self._urgent.pop(session, None)
        self._planned.pop(session, None)

    def flying(self, session: SessionKey) -> int:
        """Chunks being read for a session."""
        return sum(owner == session for owner in self._reading.values())

    def advance(self, now: float, *, loads_wait: bool) -> None:
        """Start what may be started. ``loads_wait``: a request waits for a load."""
        for session in list(self._urgent):
            self._start(session, self._urgent, now, len(self._urgent[session]))
        if loads_wait:
            return
        for session in list(self._planned):
            room = PLANNED_AT_ONCE - len(self._reading)
            if room < CHUNKS_PER_READ:
                return
            self._start(session, self._planned, now, CHUNKS_PER_READ)

    def _start(
        self,
        session: SessionKey,
        queues: dict[SessionKey, deque[ChunkKey]],
        now: float,
        most: int,
    ) -> None:
        queue = queues[session]
        keys = [queue.popleft() for _ in range(min(most, len(queue)))]
        self._starting = session
        self._manager.bring(keys, self, now, break_pins=False, owner=session)
        waiting = [key for key in self._missing(keys) if key not in self._reading]
        queue.extendleft(reversed(waiting))
        if not queue:
            del queues[session]

    def _missing(self, keys: Iterable[ChunkKey]) -> list[ChunkKey]:
        manager = self._manager
        return [
            key
            for key in keys
            if not manager.dram.has_or_awaits(key)
            and manager.ssd is not None
            and manager.ssd.contains(key)
        ]

    # --- ReadWaiter -----------------------------------------------------------------------------

    def wants(self, key: ChunkKey) -> bool:
        """See ReadWaiter."""
        return key in self._reading

    def on_reading(self, keys: Iterable[ChunkKey]) -> None:
        """See ReadWaiter."""
        assert self._starting is not None
        self._reading.update(dict.fromkeys(keys, self._starting))

    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None:
        """See ReadWaiter."""
        for key in list(keys):
            self._manager.unpin([key])
            session = self._reading.pop(key, None)
            if session is not None:
                self._manager.mark_prefetched([key])
                self.on_fetched(session, key)

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        """See ReadWaiter. What follows in its chain would be useless."""
        session = self._reading.pop(key, None)
        if session is not None:
            self.forget(session)
