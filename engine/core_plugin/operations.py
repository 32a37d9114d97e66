"""Control operations that take more than one scheduler step: park, prefetch, drop, cut, flush.

Each is a small state machine that the scheduler polls in every step until it returns a reply. While
one is open the engine keeps stepping, so they make progress on an idle engine too.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.hints import Done, Dropped, Failure, Prefetched, Reply, SessionKv
from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.manager import TierManager

PATIENCE_S = 60.0
"""After this long an operation fails rather than waits."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Chunks of a session that was dropped."""

    orphans: list[ChunkKey]
    """Nobody holds these now."""
    shared: list[ChunkKey]
    """Others hold these."""


class SessionsView(Protocol):
    """What an operation needs of the scheduler side."""

    manager: TierManager
    tokens_per_chunk: int

    def is_quiet(self, session: SessionKey | None) -> bool:
        """No request of the session (None: of any) runs or still has chunks to save."""
        ...

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None: ...

    def reads_left(self) -> int:
        """Chunks that operations may begin to read from SSD now, beside what loads need."""
        ...

    def describe(self, session: SessionKey) -> SessionKv: ...

    def to_write(self, session: SessionKey) -> Sequence[ChunkKey]:
        """Of the session's chain, what parking it writes to SSD."""
        ...

    def truncate(self, session: SessionKey, tokens: int) -> SessionKv:
        """Cut the session's chain."""
        ...

    def park(self, session: SessionKey) -> None:
        """Free device blocks and DRAM chunks that SSD has and that only parked sessions hold."""
        ...

    def forget(self, session: SessionKey) -> Forgotten:
        """Drop the session and free its upper copies."""
        ...


class Operation(Protocol):
    """One running operation."""

    def poll(self, now: float) -> Reply | None:
        """Make progress; the reply once it is over."""
        ...


class ParkOperation:
    """Wait for the session to be quiet, complete its SSD copy, make it durable, free the rest."""

    def __init__(self, view: SessionsView, session: SessionKey, now: float) -> None:
        self._view = view
        self._session = session
        self._deadline = now + PATIENCE_S
        self._asked: set[ChunkKey] = set()
        self._flush: Future[None] | None = None

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        if now > self._deadline:
            return Failure("parking took too long: the session is busy or the disk is slow")
        if not self._view.is_quiet(self._session):
            return None
        ssd = self._view.manager.ssd
        keys = self._view.chain(self._session)
        if keys is None or ssd is None:
            # Nothing to demote to: the upper copies are the only ones, so they stay.
            return self._view.describe(self._session)
        if ssd.is_writing(keys):
            return None
        new = [key for key in self._view.to_write(self._session) if key not in self._asked]
        if new:
            # Once each: a chunk that the disk refuses stays where it is.
            left = self._view.manager.write_down(self._session, new)
            self._asked.update(new[: len(new) - len(left)])
            return None
        if self._flush is None:
            self._flush = ssd.flush()
        if not self._flush.done():
            return None
        if (error := self._flush.exception()) is not None:
            return Failure(f"the SSD copy could not be made durable: {error}")
        self._view.park(self._session)
        return self._view.describe(self._session)


class PrefetchOperation:
    """Bring a session's chunks to DRAM, from the front, as many as DRAM can hold beside others, and
    as fast as loads leave the disk to it."""

    def __init__(
        self, view: SessionsView, session: SessionKey, deadline_ms: int, now: float
    ) -> None:
        self._view = view
        self._session = session
        self._deadline = now + min(deadline_ms / 1000, PATIENCE_S)
        chain = view.chain(session) or ()
        # A quarter of DRAM stays free for requests that run meanwhile.
        self._wanted = list(chain[: max(1, view.manager.capacity * 3 // 4)])
        self._whole = len(self._wanted) == len(chain)
        self._reading: set[ChunkKey] = set()
        self._pinned: list[ChunkKey] = []
        self._brought: list[ChunkKey] = []
        self._failed = False

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        manager = self._view.manager
        if now <= self._deadline and not self._failed:
            handled = self._reading.union(self._pinned)
            pending = [key for key in self._wanted if key not in handled]
            if pending and manager.dram.spare() > 0:
                away = [key for key in pending if not manager.dram.has_or_awaits(key)]
                later = set(away[self._view.reads_left() :])
                due = [key for key in pending if key not in later]
                manager.bring(due, self, now, break_pins=False)
                return None
            if self._reading:
                return None
        manager.forget_waiter(self)
        manager.unpin(self._pinned)
        manager.origins.mark_prefetched(self._brought)
        complete = self._whole and len(self._pinned) == len(self._wanted)
        tokens = len(self._pinned) * self._view.tokens_per_chunk
        return Prefetched(self._session, tokens, complete)

    @property
    def reading(self) -> int:
        """Chunks on their way for it."""
        return len(self._reading)

    # ReadWaiter

    def wants(self, key: ChunkKey) -> bool:
        """Whether ``key`` is still awaited."""
        return key in self._reading

    def on_reading(self, keys: Iterable[ChunkKey]) -> None:
        """These are on their way."""
        self._reading.update(keys)

    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None:
        """These are in DRAM and pinned."""
        for key in keys:
            if key in self._reading:
                self._reading.discard(key)
                self._brought.append(key)
            self._pinned.append(key)

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        """This one cannot be had, and what follows it is useless."""
        self._reading.discard(key)
        self._failed = True


class DropOperation:
    """Forget a session and delete what nobody else holds. One that fails can be asked again, also
    when the disk has not answered yet: what was asked first is done first."""

    def __init__(self, view: SessionsView, session: SessionKey, now: float) -> None:
        self._view = view
        self._session = session
        self._deadline = now + PATIENCE_S
        self._forgotten: Forgotten | None = None
        self._known = False
        self._drop: Future[bool] | None = None

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        ssd = self._view.manager.ssd
        if self._forgotten is None:
            if now > self._deadline:
                return Failure("dropping took too long: the session is busy or the disk is slow")
            if not self._view.is_quiet(self._session):
                return None
            chain = self._view.chain(self._session)
            self._known = chain is not None
            if ssd is not None and ssd.is_writing(chain or ()):
                return None
            self._forgotten = gone = self._view.forget(self._session)
            if ssd is not None:
                self._drop = ssd.drop(self._session, gone.orphans, gone.shared)
                ssd.persist_manifests()
        if self._drop is not None and not self._drop.done():
            if now > self._deadline:
                return Failure("the session's key is not known to be destroyed: the disk is slow")
            return None
        destroyed = False
        if self._drop is not None:
            if (error := self._drop.exception()) is not None:
                return Failure(f"the session's key could not be destroyed: {error}")
            destroyed = self._drop.result()
        return self._dropped(self._forgotten, destroyed)

    def _dropped(self, gone: Forgotten, destroyed: bool) -> Dropped:
        chunks = len(gone.orphans)
        size = chunks * self._view.manager.chunk_bytes
        return Dropped(self._session, self._known, chunks, size, destroyed)


class TruncateOperation:
    """Wait for the session to be quiet, then cut it: a turn under way would bring back the end."""

    def __init__(self, view: SessionsView, session: SessionKey, tokens: int, now: float) -> None:
        self._view = view
        self._session = session
        self._tokens = tokens
        self._deadline = now + PATIENCE_S

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        if now > self._deadline:
            return Failure("cutting took too long: the session is busy")
        if not self._view.is_quiet(self._session):
            return None
        return self._view.truncate(self._session, self._tokens)


class FlushOperation:
    """Wait until everything on its way to SSD is there and durable."""

    def __init__(self, view: SessionsView, now: float) -> None:
        self._view = view
        self._deadline = now + PATIENCE_S
        self._flush: Future[None] | None = None

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        if now > self._deadline:
            return Failure("flushing took too long: the disk is slow")
        ssd = self._view.manager.ssd
        if ssd is None:
            return Done()
        if self._flush is None:
            if not self._view.is_quiet(None) or self._view.manager.is_moving():
                return None
            self._flush = ssd.flush()
        if not self._flush.done():
            return None
        error = self._flush.exception()
        return Done() if error is None else Failure(f"flushing failed: {error}")
