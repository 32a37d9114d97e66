"""Device fills that nobody has asked for: one at a time, and what each was good for. Scheduler
thread only."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from cache_tiers.prefetch.tally import PrefetchTally
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.device_fill import OnFailed
from engine.core_plugin.manager import TierManager
from engine.core_plugin.sessions_view import SessionChunks

Fill = Callable[[SessionKey, int, float, OnFailed], "Future[bytes] | None"]
"""Bring a session's first chunks to the device; leaves a share of the idle blocks to requests. The
future is done when that is over; None where it could not begin now."""


@dataclass(frozen=True, slots=True)
class _Filling:
    session: SessionKey
    before: int
    """Leading chunks that were on the device when it began."""
    origins: list[Tier]
    """Where those behind them were."""
    reply: "Future[bytes]"


class Found(NamedTuple):
    """What fills had brought to the device for a request. In chunks."""

    before: Counter[Tier]
    """By the tier that they were in before."""
    in_time: int
    """That were in DRAM or on the device when it first asked; it waited for the others."""


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
        self._has_ended = False
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
        self._settle()
        return self._filling is not None

    def is_filling(self, session: SessionKey) -> bool:
        """Whether the session's chunks are being brought."""
        self._settle()
        return self._filling is not None and self._filling.session == session

    def start(self, session: SessionKey, upto: int, *, keep_share: float) -> bool:
        """Bring the session's first ``upto`` chunks, leaving ``keep_share`` of the idle blocks to
        requests; False where that cannot be, or not now."""
        if self._fill is None or self.under_way:
            return False
        here = self._sessions.on_device(session)
        chunks = self._chain(session)[here:upto]
        origins = [self._manager.origins.below_device(key) for key in chunks]
        reply = self._fill(session, upto, keep_share, partial(self.on_failed, session))
        if reply is None:
            return False
        self._filling = _Filling(session, here, origins, reply)
        return True

    def end_if_over(self) -> bool:
        """Whether one has ended since this was asked last."""
        self._settle()
        ended, self._has_ended = self._has_ended, False
        return ended

    def found(self, session: SessionKey, on_device: int, at_hand: int | None = None) -> Found:
        """A request of the session finds so many leading chunks on the device, ``at_hand`` of them
        (None: all) without having waited for more than a copy."""
        self._settle()
        start, origins = self._filled.pop(session, (0, []))
        used = origins[: max(0, on_device - start)]
        in_time = len(used) if at_hand is None else min(len(used), max(0, at_hand - start))
        self.tally.asked(session, on_device, coming=len(used) - in_time)
        self._manager.origins.mark_used(self._chain(session)[start : start + len(used)])
        return Found(Counter(used), in_time)

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self.tally.forget(session)
        self._filled.pop(session, None)

    def _settle(self) -> None:
        """Take note of the end of the one under way. Before every question: a request may come
        between the end of a fill and the next poll."""
        filling = self._filling
        if filling is None or not filling.reply.done():
            return
        self._filling = None
        self._has_ended = True
        session, first = filling.session, filling.before
        # What came through DRAM is still there, and until it is used, that is the fill's doing:
        # the device may be short of room before, and may have been all along.
        behind = zip(self._chain(session)[first:], filling.origins, strict=False)
        self._manager.origins.mark_prefetched(
            key for key, tier in behind if tier is Tier.SSD and self._manager.dram.has(key)
        )
        here = self._sessions.on_device(session)
        if here > first:
            self.tally.fetched(session, first, here)
            start, before = self._filled.get(session, (first, []))
            origins = [*before[: first - start], *filling.origins]
            self._filled[session] = (start, origins[: here - start])

    def _chain(self, session: SessionKey) -> tuple[ChunkKey, ...]:
        return self._sessions.chain(session) or ()
