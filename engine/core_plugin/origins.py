"""Where chunks were when they were asked for, whatever a prefetch has done since. Scheduler thread
only."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cache_tiers.types import ChunkKey, Tier
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.vllm_compat import ReqContext


@dataclass
class ChunkOrigins:
    """Per request: the tier that each chunk was in when the request asked."""

    tiers: dict[ChunkKey, Tier] = field(default_factory=dict)
    prefetched: set[ChunkKey] = field(default_factory=set)


class Origins:
    """See the module's docstring."""

    def __init__(self, dram: DramTier) -> None:
        self._dram = dram
        self._prefetched: set[ChunkKey] = set()

    def of(self, req_context: ReqContext) -> ChunkOrigins:
        """The request's own record of where its chunks were."""
        origins = req_context.get_state(ChunkOrigins)
        if origins is None:
            origins = ChunkOrigins()
            req_context.set_state(origins)
        return origins

    def note(self, req_context: ReqContext, key: ChunkKey, tier: Tier) -> None:
        """The request has asked for a chunk, which is in ``tier``; the first time counts."""
        origins = self.of(req_context)
        if key in origins.tiers:
            return
        if tier is Tier.DRAM and key in self._prefetched:
            origins.prefetched.add(key)
            tier = Tier.SSD
        else:
            self._prefetched.discard(key)
        origins.tiers[key] = tier

    def below_device(self, key: ChunkKey) -> Tier:
        """The tier that a chunk below the device is in, or was in before a prefetch."""
        in_dram = self._dram.has(key) and key not in self._prefetched
        return Tier.DRAM if in_dram else Tier.SSD

    def mark_prefetched(self, keys: Iterable[ChunkKey]) -> None:
        """These are in DRAM because a prefetch brought them."""
        self._prefetched.update(keys)
        if len(self._prefetched) > 4 * self._dram._num_chunks:
            self._prefetched = {key for key in self._prefetched if self._dram.has(key)}

    def mark_used(self, keys: Iterable[ChunkKey]) -> None:
        """A request has taken these: from now on they are in DRAM in their own right."""
        self._prefetched.difference_update(keys)
