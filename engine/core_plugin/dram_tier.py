"""vLLM's DRAM tier, with what sessions need of it. Scheduler thread only."""

from collections.abc import Callable, Collection, Iterable

from cache_tiers.types import ChunkKey, Standing
from engine.core_plugin.dram_policy import DramPolicy
from engine.core_plugin.owner import owner_of
from engine.core_plugin.vllm_compat import (
    CPUPrimaryTierOffloadingManager,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    SharedOffloadRegion,
)


class DramTier(CPUPrimaryTierOffloadingManager):
    """See the module's docstring."""

    def __init__(self, num_chunks: int, mmap_region: SharedOffloadRegion) -> None:
        super().__init__(num_chunks=num_chunks, mmap_region=mmap_region)
        self.order = DramPolicy(num_chunks)
        """In which chunks go."""
        self._policy = self.order
        self.break_oldest_pin: Callable[[], bool] = lambda: False
        """Asked for room that only pinned chunks can give; False when no pin is left."""

    def free(self) -> int:
        """Slots that hold nothing."""
        free: int = self._get_num_free_chunks()
        return free

    def room(self) -> int:
        """Chunks that could be allocated now, by taking free slots or evicting idle chunks."""
        return self.free() + self._num_evictable_cache_chunks

    def spare(self) -> int:
        """As ``room``, without breaking a pin."""
        return self.room() - self.order.idle_pinned

    def has(self, key: ChunkKey) -> bool:
        """Whether ``key`` is in DRAM, complete."""
        chunk = self._policy.get(OffloadKey(key))
        return chunk is not None and chunk.is_ready

    def has_or_awaits(self, key: ChunkKey) -> bool:
        """Whether ``key`` is in DRAM or on its way there."""
        return self._policy.get(OffloadKey(key)) is not None

    def prepare_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext
    ) -> PrepareStoreOutput | None:
        """vLLM's, and breaks the oldest pins for what finds no other room. What comes is the
        session's that the context names."""
        new = sum(self._policy.get(key) is None for key in keys)
        while self.spare() < new <= self.room() and self.break_oldest_pin():
            pass
        prepared: PrepareStoreOutput | None = super().prepare_store(keys, req_context)
        if prepared is not None and (session := owner_of(req_context)) is not None:
            self.order.own(prepared.keys_to_store, session)
        return prepared

    def rank(self, keys: Iterable[ChunkKey], standing: Standing) -> None:
        """Say what chunks are worth; those that are not here are passed over."""
        self.order.rank(keys, standing)

    def drop(self, keys: Iterable[ChunkKey]) -> int:
        """Free chunks that nobody is using; returns how many."""
        freed = 0
        for key in keys:
            chunk = self._policy.get(OffloadKey(key))
            if chunk is None or chunk.ref_cnt != 0:
                continue
            self._policy.mark_non_evictable(OffloadKey(key))
            self._num_evictable_cache_chunks -= 1
            self._policy.remove(OffloadKey(key))
            self._free_chunk(chunk)
            freed += 1
        return freed
