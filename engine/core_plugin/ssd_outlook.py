"""What the SSD is told of sessions, so that it keeps what is worth the most. Scheduler thread only.

Evictions happen on the store's writer thread, predictions live on the scheduler's. Every few
seconds, while the store is near its limit, this one notes what it knows: who is away and how that
is expected to go, whose turn runs, what tiers above the SSD have. What is to be counted is counted
on the other thread, and only if room is needed.
"""

import time
from collections.abc import Callable, Collection
from itertools import islice

from cache_tiers.costs import Costs
from cache_tiers.eviction.expectation import Price
from cache_tiers.eviction.noted import Noted, away_of
from cache_tiers.returns.types import Returns
from cache_tiers.types import SessionKey
from engine.core_plugin.manager import TierManager
from engine.core_plugin.sessions_view import SessionChunks

TOLD_EVERY_S = 5.0
NEAR = 0.75
"""Of the limit: room is made a segment ahead, and a segment may be an eighth."""
MOST_TORN = 64
"""Sessions with a hole in their chain on SSD of which it is asked what tiers above have, in some
30 µs each. Of the others it is taken to be nothing: they are worth the least to those tiers too."""


class SsdOutlook:
    """See the module's docstring."""

    def __init__(
        self,
        manager: TierManager,
        sessions: SessionChunks,
        returns: Returns,
        costs: Costs,
        running: Collection[SessionKey],
        *,
        tokens_per_chunk: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``running``: sessions whose turns run, whenever it is looked at. ``wall_clock`` gives
        seconds since the epoch, as manifests and store count."""
        self._manager = manager
        self._sessions = sessions
        self._returns = returns
        self._costs = costs
        self._running = running
        self._tokens_per_chunk = tokens_per_chunk
        self._wall_clock = wall_clock
        self._next_at = 0.0
        self._evicted = 0

    def poll(self, now: float) -> None:
        """Tell the store if it is time to; ``now`` as for ``Returns``."""
        ssd = self._manager.ssd
        if ssd is None or now < self._next_at:
            return
        self._next_at = now + TOLD_EVERY_S
        stats = ssd.store.stats()
        evicts = stats.evicted_chunks > self._evicted
        self._evicted = stats.evicted_chunks
        # One that leaves a floor of free bytes to others may have to evict far from its limit.
        if not evicts and stats.bytes_used < NEAR * stats.bytes_limit:
            return
        torn = islice(ssd.store.torn, MOST_TORN)
        noted = Noted(
            manifests=ssd.manifests,
            away=away_of(self._returns, ssd.manifests.sessions(), now),
            running=frozenset(self._running),
            above={session: self._sessions.at_hand(session) for session in torn},
            price=Price.of(self._costs, self._tokens_per_chunk),
            now=self._wall_clock(),
        )
        ssd.store.expect(noted.expectation)
