"""The order in which chunks leave DRAM: what is superseded, then the longest unused, then what is
pinned. Scheduler thread only.

vLLM's LRU keeps a heap of ranks that grow with every use. Here a chunk's standing comes before its
use: it moves the rank by more than all uses together.
"""

from collections.abc import Callable, Iterable

from cache_tiers.types import ChunkKey, Standing
from engine.core_plugin.vllm_compat import ChunkStatus, LRUCachePolicy, OffloadKey

_STEP = 1 << 60


class RankedLru(LRUCachePolicy):
    """See the module's docstring."""

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self.standing_of: Callable[[ChunkKey], Standing] = lambda _: Standing.ORDINARY
        """Asked once for each chunk that comes; ``rank`` says what changes later."""
        self._standings: dict[OffloadKey, Standing] = {}
        """Of chunks that are here and not ORDINARY."""
        self.idle_pinned = 0
        """Pinned chunks that could be evicted."""

    def rank(self, keys: Iterable[ChunkKey], standing: Standing) -> None:
        """Give chunks that are here another standing; among equals their last use goes on to
        count."""
        for key in map(OffloadKey, keys):
            before = self._standing(key)
            if key not in self.chunks or standing is before:
                continue
            idle = key in self._evictable
            self.idle_pinned += idle * ((standing is _PINNED) - (before is _PINNED))
            self._note(key, standing)
            self._ranks[key] += (standing - before) * _STEP
            if idle:
                self._push_evictable(key)
        self._maybe_compact_heap()

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """vLLM's."""
        super().insert(key, chunk)
        standing = self.standing_of(ChunkKey(key))
        self._note(key, standing)
        self._ranks[key] += standing * _STEP

    def remove(self, key: OffloadKey) -> None:
        """vLLM's."""
        self._leave(key)
        super().remove(key)

    def evict(
        self, n: int, protected: set[OffloadKey]
    ) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """vLLM's."""
        evicted: list[tuple[OffloadKey, ChunkStatus]] | None = super().evict(n, protected)
        for key, _ in evicted or ():
            self.idle_pinned -= self._standings.pop(key, None) is _PINNED
        return evicted

    def mark_evictable(self, key: OffloadKey) -> None:
        """vLLM's."""
        self.idle_pinned += self._standing(key) is _PINNED
        super().mark_evictable(key)

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """vLLM's."""
        self.idle_pinned -= self._standing(key) is _PINNED
        super().mark_non_evictable(key)

    def clear(self) -> None:
        """vLLM's."""
        super().clear()
        self._standings.clear()
        self.idle_pinned = 0

    def _assign_new_rank(self, key: OffloadKey) -> bool:
        evictable: bool = super()._assign_new_rank(key)
        if key in self.chunks:
            self._ranks[key] += self._standing(key) * _STEP
        return evictable

    def _standing(self, key: OffloadKey) -> Standing:
        return self._standings.get(key, Standing.ORDINARY)

    def _note(self, key: OffloadKey, standing: Standing) -> None:
        if standing is Standing.ORDINARY:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing

    def _leave(self, key: OffloadKey) -> None:
        if self._standings.pop(key, None) is _PINNED and key in self._evictable:
            self.idle_pinned -= 1


_PINNED = Standing.PINNED
