"""Device fills that nobody has asked for: one at a time, and what each was good for. Scheduler
thread only."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from cache_tiers.prefetch.tally import PrefetchTally
from cache_tiers.types import MissReason, SessionKey, Tier
from engine.core_plugin.device_fill import OnFailed
from engine.core_plugin.manager import TierManager
from engine.core_plugin.sessions_view import SessionChunks

Fill = Callable[[SessionKey, int, float, OnFailed], "Future[bytes]"]
"""Bring a session's first chunks to the device; leaves a share of the idle blocks to requests. The
future is done when that is over."""


@dataclass(frozen=True, slots=True)
class _Filling:
    session: SessionKey
    before: int
    """Leading chunks that were on the device when it began."""
    origins: list[Tier]
    """Where those behind them were."""
    reply: "Future[bytes]"


class PlannedFills:
    """See the module's docstring. Where no ``fill`` is bound, nothing is filled."""

    def __init__(self, manager: TierManager, sessions: SessionChunks) -> None:
        self.tally = PrefetchTally(manager.chunk_bytes)
        self._manager = manager
        self._sessions = sessions
        self.on_failed: Callable[[SessionKey, MissReason], None] = lambda *_: None
        """Told of a chunk that could not be read: it and what follows were given up."""
        self._fill: Fill | None = None
        self._filling: _Filling | None = None
        self._filled: dict[SessionKey, tuple[int, list[Tier]]] = {}
        """What was brought and nobody has asked for: the place of the first chunk, and where they
        were before."""

    def bind(self, fill: Fill) -> None:
        """The engine can fill its device."""
        self._fill = fill

    @property
    def possible(self) -> bool:
        """Whether the engine can fill its device."""
        return self._fill is not None

    @property
    def under_way(self) -> bool:
        """Whether one is under way."""
        return self._filling is not None

    def is_filling(self, session: SessionKey) -> bool:
        """Whether the session's chunks are being brought."""
        return self._filling is not None and self._filling.session == session

    def start(self, session: SessionKey, upto: int, *, keep_share: float) -> bool:
        """Bring the session's first ``upto`` chunks, leaving ``keep_share`` of the idle blocks to
        requests; False where that cannot be, or not now."""
        if self._fill is None or self._filling is not None:
            return False
        here = self._sessions.on_device(session)
        chain = self._sessions.chain(session) or ()
        origins = [self._manager.origin(key) for key in chain[here:upto]]
        reply = self._fill(session, upto, keep_share, partial(self.on_failed, session))
        self._filling = _Filling(session, here, origins, reply)
        return True

    def end_if_over(self) -> bool:
        """Take note of the end of the one under way; whether it has ended."""
        filling = self._filling
        if filling is None or not filling.reply.done():
            return False
        self._filling = None
        here = self._sessions.on_device(filling.session)
        if here > filling.before:
            self.tally.fetched(filling.session, filling.before, here)
            start, before = self._filled.get(filling.session, (filling.before, []))
            origins = [*before[: filling.before - start], *filling.origins]
            self._filled[filling.session] = (start, origins[: here - start])
        return True

    def found(self, session: SessionKey, on_device: int) -> Counter[Tier]:
        """A request of the session finds so many leading chunks on the device. How many of them
        were brought for it, by the tier that they were in before."""
        self.tally.asked(session, on_device)
        start, origins = self._filled.pop(session, (0, []))
        return Counter(origins[: max(0, on_device - start)])

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self.tally.forget(session)
        self._filled.pop(session, None)
