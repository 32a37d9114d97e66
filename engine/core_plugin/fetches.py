"""Chunks on their way from SSD to DRAM that no load has asked for yet. Scheduler thread only.

*Urgent* ones are for a request that has begun to arrive or waits to be scheduled: they are read at
once, as far as DRAM has room. *Planned* ones are for sessions that are expected back: they are read
while no request waits for a load, a few at a time, so that a load that begins has the disk to
itself after a few milliseconds. What arrives is pinned by nobody; the order of eviction knows its
session.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.manager import CHUNKS_PER_READ, TierManager

Piece = tuple[int, ChunkKey]
"""A chunk, and its place in its session's chain."""

PLANNED_AT_ONCE = 2 * CHUNKS_PER_READ
"""Chunks that are read for plans at the same time: one full read under way, one queued."""
UNASKED_S = 10.0
"""What was begun for a request so long ago that the scheduler still does not know takes no room
from others': the request was refused, or its client is gone."""


@dataclass(slots=True)
class _Arrived:
    """Urgent chunks of a session that have come, or are on their way, and were not asked for."""

    chunks: int
    since: float
    """When the latest of them were begun."""


class Fetches:
    """See the module's docstring. A ``ReadWaiter`` of the manager."""

    def __init__(self, manager: TierManager) -> None:
        self._manager = manager
        self._urgent: dict[SessionKey, deque[Piece]] = {}
        self._planned: dict[SessionKey, deque[Piece]] = {}
        self._reading: dict[ChunkKey, tuple[SessionKey, int | None]] = {}
        """Whose each is, and its place in the chain; None when nobody counts it any more."""
        self._starting: tuple[SessionKey, dict[ChunkKey, int]] | None = None
        """Whose reads are being started, and the place of each."""
        self.is_known: Callable[[SessionKey], bool] = lambda _: True
        """Whether a session is still there: what comes for one that is gone is dropped."""
        self.is_running: Callable[[SessionKey], bool] = lambda _: False
        """Whether a request of the session is with the scheduler: it asks, or its end is told."""
        self._arrived: dict[SessionKey, _Arrived] = {}
        self._asked_at: dict[SessionKey, float] = {}
        """When the request asked that found chunks of its session being read."""
        self._is_over = False
        self.on_failing: Callable[[SessionKey, MissReason], None] = lambda *_: None
        """Told of a chunk that could not be read: what follows it is not fetched."""
        self.on_fetched: Callable[[SessionKey, int], None] = lambda *_: None
        """Told of each chunk that is in DRAM now: its place in its session's chain."""
        self.on_late: Callable[[float], None] = lambda _: None
        """Told when the last chunk has come for a request that asked too soon: how much later, in
        seconds."""

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._urgent or self._planned or self._reading)

    def want(self, session: SessionKey, pieces: Iterable[Piece]) -> None:
        """Bring these up at once, in this order; what is on its way or in DRAM already stays."""
        away = deque(self._missing(session, pieces))
        self._planned.pop(session, None)
        if away:
            self._urgent[session] = away

    def follow(self, plan: Sequence[tuple[SessionKey, Sequence[Piece]]]) -> None:
        """Bring these up next, the most urgent first. What was planned before and is not among them
        is cancelled; what is being read for it arrives."""
        self._planned = {
            session: away
            for session, pieces in plan
            if session not in self._urgent and (away := deque(self._missing(session, pieces)))
        }

    def forget(self, session: SessionKey) -> None:
        """Bring no more up for the session."""
        self._urgent.pop(session, None)
        self._planned.pop(session, None)
        self._arrived.pop(session, None)

    def release(self, session: SessionKey, asked_at: float | None = None) -> int:
        """The session's request has its own load since ``asked_at``, or the session is gone: what
        is being read for it still comes, late or for nobody. Returns how many chunks that are."""
        self.forget(session)
        flying = [
            key
            for key, (owner, place) in self._reading.items()
            if owner == session and place is not None
        ]
        for key in flying:
            self._reading[key] = (session, None)
        if asked_at is None:
            self._asked_at.pop(session, None)
        elif flying:
            self._asked_at.setdefault(session, asked_at)
        return len(flying)

    def flying(self, session: SessionKey) -> int:
        """Chunks being read for a session."""
        return sum(owner == session for owner, _ in self._reading.values())

    def take_over(self) -> bool:
        """Whether a session's fetch has ended since the last call."""
        over, self._is_over = self._is_over, False
        return over

    def advance(self, now: float, *, loads_wait: bool, reads: int) -> None:
        """Start what may be started. ``loads_wait``: a request waits for a load; ``reads``: chunks
        that may be on their way for this at all."""
        room = self._urgent_room(now) if self._urgent else 0
        for session in list(self._urgent):
            if room <= 0:
                # What is left their requests load themselves.
                self._urgent.clear()
                break
            most = min(reads - len(self._reading), room)
            if most <= 0:
                return
            started = self._start(session, self._urgent, now, most)
            if started:
                before = self._arrived.get(session)
                self._arrived[session] = _Arrived(started + (before.chunks if before else 0), now)
            room -= started
        while self._planned and not loads_wait:
            most = min(PLANNED_AT_ONCE, reads) - len(self._reading)
            if most <= 0:
                return
            session = next(iter(self._planned))
            if not self._start(session, self._planned, now, min(CHUNKS_PER_READ, most)):
                return

    def _urgent_room(self, now: float) -> int:
        """Chunks that may still come for requests. The first in the queue are not to be pushed out
        by the last, and others want room too."""
        self._arrived = {
            session: arrived
            for session, arrived in self._arrived.items()
            if self.is_running(session) or now - arrived.since < UNASKED_S
        }
        arrived = sum(each.chunks for each in self._arrived.values())
        return self._manager.capacity * 3 // 4 - arrived

    def _start(
        self,
        session: SessionKey,
        queues: dict[SessionKey, deque[Piece]],
        now: float,
        most: int,
    ) -> int:
        """How many chunks were started. Where DRAM gives no room and nothing is on its way that
        could, the session's are given up: nobody may wait for that."""
        queue, before = queues[session], len(self._reading)
        pieces = [queue.popleft() for _ in range(min(most, len(queue)))]
        places = {key: place for place, key in pieces}
        self._starting = session, places
        self._manager.bring(list(places), self, now, break_pins=False, owner=session)
        queue.extendleft(reversed(self._missing(session, pieces)))
        if not queue or not self._reading:
            queues.pop(session, None)
        return len(self._reading) - before

    def _missing(self, session: SessionKey, pieces: Iterable[Piece]) -> list[Piece]:
        """Those that have to be read, up to the first that is nowhere: what is behind it would be
        of no use."""
        missing = []
        for place, key in pieces:
            if self._manager.dram.has_or_awaits(key):
                continue
            if not self._manager.is_on_ssd(key):
                self.on_failing(session, MissReason.EVICTED)
                break
            missing.append((place, key))
        return missing

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
            session, place = self._reading.pop(key, (None, None))
            if session is None:
                continue
            if not self.is_known(session):
                self._manager.dram.drop([key])
            elif place is not None:
                self._manager.origins.mark_prefetched([key])
                self.on_fetched(session, place)
            if session in self._asked_at and (session, None) not in self._reading.values():
                self.on_late(max(0.0, now - self._asked_at.pop(session)))
            self._is_over |= not self._is_wanted(session)

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        """See ReadWaiter. What follows in its chain would be useless."""
        awaited = self._reading.pop(key, None)
        if awaited is not None:
            self.forget(awaited[0])
            self._asked_at.pop(awaited[0], None)
            self.on_failing(awaited[0], reason)
            self._is_over = True

    def _is_wanted(self, session: SessionKey) -> bool:
        """Whether more is to come for a session."""
        queued = session in self._urgent or session in self._planned
        return queued or bool(self.flying(session))
