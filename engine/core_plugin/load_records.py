"""What loads and prefetches did for a request, noted in its record. Scheduler thread only."""

from collections.abc import Sequence

from cache_tiers.types import Tier
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.manager import TierManager
from engine.core_plugin.planned_fills import Found
from engine.core_plugin.reports import RequestRecord
from engine.core_plugin.vllm_compat import RequestOffloadState


class LoadRecords:
    """``block_tokens`` and ``chunk_tokens`` are the first group's: others cover the same tokens."""

    def __init__(self, manager: TierManager, *, block_tokens: int, chunk_tokens: int) -> None:
        self._manager = manager
        self._block_tokens = block_tokens
        self._chunk_tokens = chunk_tokens

    def opened(self, record: RequestRecord, state: RequestOffloadState, stream: LoadStream) -> None:
        """The request's first load: where its chunks were when it asked."""
        origins = self._manager.origins.of(state.req_context)
        for item in stream.items:
            tokens = self.tokens((item,))
            self._add(record, origins.tiers.get(item.key, Tier.SSD), tokens)
            record.bytes_loaded += self._manager.chunk_bytes
            if item.key in origins.prefetched:
                record.prefetched += tokens

    def awaits(self, record: RequestRecord, fills: Sequence[LoadStream]) -> None:
        """The request asks while these bring its chunks to the device."""
        if record.at_hand is None:
            record.at_hand = max(fill.items[0].first_block + fill.at_hand for fill in fills)

    def found(self, record: RequestRecord, brought: Found) -> None:
        """Of the chunks that the request found on the device, so many had been brought there for
        it: they count as what they were before."""
        for tier, chunks in brought.before.items():
            tokens = chunks * self._chunk_tokens
            record.device -= tokens
            self._add(record, tier, tokens)
            record.bytes_loaded += chunks * self._manager.chunk_bytes
        record.prefetched += brought.in_time * self._chunk_tokens

    def lost(
        self, record: RequestRecord, state: RequestOffloadState, items: Sequence[LoadItem]
    ) -> None:
        """These were not loaded after all."""
        origins = self._manager.origins.of(state.req_context)
        for item in items:
            self._add(record, origins.tiers.get(item.key, Tier.SSD), -self.tokens((item,)))
            record.bytes_loaded = max(0, record.bytes_loaded - self._manager.chunk_bytes)

    def above(self, record: RequestRecord) -> int:
        """Chunks that the request found in DRAM or on the device, however they came there."""
        in_dram = record.tokens_by_tier.get(Tier.DRAM, 0) + record.prefetched
        return (record.device + in_dram) // self._chunk_tokens

    def tokens(self, items: Sequence[LoadItem]) -> int:
        """Prompt tokens of chunks."""
        return sum(len(item.block_ids) * self._block_tokens for item in items if item.group == 0)

    def _add(self, record: RequestRecord, tier: Tier, tokens: int) -> None:
        record.tokens_by_tier[tier] = max(0, record.tokens_by_tier.get(tier, 0) + tokens)
