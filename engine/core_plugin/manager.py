"""DRAM and SSD as one: what is where, what moves, what is pinned, who holds it.

Scheduler thread only. Differences from vLLM's own tiering manager, which this extends:

- A chunk on SSD is a *hit*, not a "wait": its bytes stream through DRAM after the device blocks are
  allocated (``load_stream.py``), so a prefix may be larger than DRAM and no chunk is read twice.
- DRAM chunks that a stream or an operation needs are pinned from the moment they are read.
- Sessions: which chunks each holds, what only one holds, what to free when it parks or is dropped.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cache_tiers.types import ChunkKey, MissReason, SessionKey, Standing, Tier
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.origins import Origins
from engine.core_plugin.owner import Owner
from engine.core_plugin.read_waiter import ReadWaiter
from engine.core_plugin.ssd_tier import SsdTier, TierResult
from engine.core_plugin.vllm_compat import (
    CacheHitSource,
    CPULoadStoreSpec,
    JobMetadata,
    JobResult,
    LoadStoreSpec,
    LookupResult,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    TieringOffloadingManager,
    TierJob,
)

CHUNKS_PER_READ = 4
"""Of one read job, at most: few, so that the first are early; several, so that neighbours on disk
merge into one read."""


@dataclass
class DeferredLoad(LoadStoreSpec):
    """What a load reads, before it is known where in DRAM: the chunks' names, in order."""

    keys: list[ChunkKey]


@dataclass(frozen=True, slots=True)
class Admitted:
    """How far a request's chunks are written to SSD; kept in its context."""

    tokens: float
    """Chunks that end behind this many tokens of its prompt are not, for now."""


class TierManager(TieringOffloadingManager):
    """See the module's docstring."""

    def __init__(
        self, dram: DramTier, ssd: SsdTier | None, *, pending_patience_s: float = 10.0
    ) -> None:
        super().__init__(dram, [ssd] if ssd is not None else [])
        self.dram = dram
        self.ssd = ssd
        self.public: set[ChunkKey] = ssd.public if ssd is not None else set()
        """See ``SsdTier.public``."""
        self.capacity = dram._num_chunks
        self.chunk_bytes = int(dram.get_kv_memoryview().strides[0])
        self._pending_patience_s = pending_patience_s
        self.standing_on_ssd: Callable[[ChunkKey], Standing] = lambda _: Standing.ORDINARY
        """Asked once for each chunk that was written."""
        self.chunks_per_read: Callable[[], int] = lambda: CHUNKS_PER_READ
        """At most ``CHUNKS_PER_READ``. What one read brings comes all at once."""
        self.origins = Origins(dram)
        self._waiters: dict[ChunkKey, ReadWaiter] = {}
        self._reading_since: dict[ChunkKey, float] = {}
        self._contexts = 0

    # --- lookups (called by vLLM's scheduler side) ---------------------------------------------

    def lookup(
        self, key: OffloadKey, req_context: ReqContext, *, exclude_tier_idx: int | None = None
    ) -> LookupResult:
        """HIT for what is in DRAM, on SSD or on its way up from there; HIT_PENDING for what is just
        being saved from the device."""
        self._maybe_process_finished_jobs()
        chunk = ChunkKey(key)
        began = time.monotonic()
        in_dram = self.dram.lookup(key, req_context)
        label = self._metrics.primary_tier_label
        self._metrics.on_lookup(req_context, key, label, in_dram, time.monotonic() - began)
        if in_dram is LookupResult.HIT:
            self.origins.note(req_context, chunk, Tier.DRAM)
            return LookupResult.HIT
        if in_dram is LookupResult.HIT_PENDING:
            since = self._reading_since.get(chunk)
            if since is None:
                return LookupResult.HIT_PENDING
            if began - since > self._pending_patience_s:
                return LookupResult.MISS
            # A stream takes it as it comes; waiting for all of them would hold up the first.
            self.origins.note(req_context, chunk, Tier.SSD)
            return LookupResult.HIT
        if self.ssd is None:
            return LookupResult.MISS
        on_ssd = self.ssd.lookup(key, req_context)
        label = self._metrics.tier_label(0)
        self._metrics.on_lookup(req_context, key, label, on_ssd, time.monotonic() - began)
        if on_ssd is LookupResult.HIT:
            self.origins.note(req_context, chunk, Tier.SSD)
        return on_ssd

    def is_on_ssd(self, key: ChunkKey) -> bool:
        """Whether it can be read from there; never, without a store."""
        return self.ssd is not None and self.ssd.contains(key)

    def get_load_source(self, key: OffloadKey, req_context: ReqContext) -> CacheHitSource:
        """The tier a chunk was in when its request first asked."""
        tier = self.origins.of(req_context).tiers.get(ChunkKey(key))
        return CacheHitSource.DISK if tier is Tier.SSD else CacheHitSource.HOST

    def prepare_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> LoadStoreSpec:
        """Only names the chunks: the scheduler streams them."""
        return DeferredLoad([ChunkKey(key) for key in keys])

    def complete_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Nothing: a stream unpins its chunks as it copies them."""

    def prepare_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext
    ) -> PrepareStoreOutput | None:
        """vLLM's, for chunks that SSD does not have: the device holds them now, and SSD after it,
        so a copy in DRAM would only push out something that is nowhere else."""
        ssd = self.ssd
        if ssd is not None:
            keys = [key for key in keys if not ssd.contains(ChunkKey(key))]
        return super().prepare_store(keys, req_context)

    def complete_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext, success: bool = True
    ) -> None:
        """vLLM's, for chunks that are worth a write; the others end in DRAM. In prefix order: what
        is written in order is read back in few, large reads."""
        positions = req_context._offload_key_positions
        in_order = sorted(keys, key=lambda key: positions.get(key, 0))
        admitted = req_context.get_state(Admitted)
        if success and admitted is not None and self.ssd is not None:
            due = [key for key in in_order if positions.get(key, 0) <= admitted.tokens]
            waiting = [key for key in in_order if positions.get(key, 0) > admitted.tokens]
            self.dram.complete_store(waiting, req_context, success)
            in_order = due
        super().complete_store(in_order, req_context, success)

    def store_room(self) -> int:
        """Chunks that DRAM takes from the device now: what SSD has not yet taken over from there
        may not fill it, and no pin is broken for what can wait."""
        room = self.dram.spare()
        return room if self.ssd is None else min(room, self.ssd.write_room())

    def reading(self, most: int) -> int:
        """Chunks on their way from SSD, without those that are late; counted up to ``most``."""
        on_time = (since for since in self._reading_since.values() if since > -math.inf)
        return sum(1 for _ in islice(on_time, most))

    # --- moving chunks ----------------------------------------------------------------------------

    def poll(self) -> None:
        """Take note of finished SSD jobs, and of reads that are late: nobody waits for those any
        more, but their rows stay theirs until the disk lets go."""
        self._maybe_process_finished_jobs()
        for key in self.ssd.take_late() if self.ssd is not None else ():
            self._reading_since[key] = -math.inf
            waiter = self._waiters.pop(key, None)
            if waiter is not None:
                waiter.on_failed(key, MissReason.IO_TIMEOUT)

    def bring(
        self,
        keys: Sequence[ChunkKey],
        waiter: ReadWaiter,
        now: float,
        *,
        break_pins: bool = True,
        owner: SessionKey | None = None,
    ) -> None:
        """Pin for ``waiter`` what is in DRAM, and start reading of the rest what fits; a lease on
        DRAM is broken only where nothing else gives room for a first read, if at all. What comes is
        ``owner``'s there, or nobody's."""
        here = [key for key in keys if self.dram.has(key)]
        if here:
            self.pin(here)
            waiter.on_ready(here, now)
        for key in keys:
            if self._reading_since.get(key) == -math.inf:
                waiter.on_failed(key, MissReason.IO_TIMEOUT)
        away = [key for key in keys if not self.dram.has_or_awaits(key)]
        if self.ssd is None:
            for key in away:
                waiter.on_failed(key, MissReason.EVICTED)
            return
        most = self.chunks_per_read()
        while away and (size := min(most, self.dram.spare() or (break_pins and 1))):
            if not self._start_read(away[:size], waiter, now, owner):
                return
            away, break_pins = away[size:], False

    def pin(self, keys: Sequence[ChunkKey]) -> None:
        """Protect chunks in DRAM from eviction."""
        self.dram.prepare_read([OffloadKey(key) for key in keys], self._own_context())

    def unpin(self, keys: Collection[ChunkKey]) -> None:
        """End a pin."""
        self.dram.complete_load([OffloadKey(key) for key in keys], self._own_context())

    def rows(self, keys: Sequence[ChunkKey]) -> CPULoadStoreSpec:
        """Rows of chunks that the caller has pinned."""
        chunks = [self.dram.order.chunks[OffloadKey(key)] for key in keys]
        return CPULoadStoreSpec([chunk.chunk_id for chunk in chunks])

    def write_down(self, session: SessionKey, keys: Sequence[ChunkKey]) -> Sequence[ChunkKey]:
        """Start copying to SSD what is in DRAM and neither on SSD nor on its way there, from the
        first on as far as there is room in the queue; returns what is not queued yet."""
        if self.ssd is None:
            return ()
        keys, left = keys[: self.ssd.write_room()], keys[self.ssd.write_room() :]
        batch = [
            OffloadKey(key)
            for key in keys
            if self.dram.has(key) and not self.ssd.contains(key) and not self.ssd.is_writing([key])
        ]
        if batch:
            context = self._own_context()
            context.set_state(Owner(session))
            self.ssd.submit_store(self.create_store_job(batch, context, 0))
        return left

    def is_moving(self) -> bool:
        """Whether any chunk is on its way between DRAM and SSD."""
        return bool(self._jobs)

    def forget_waiter(self, waiter: ReadWaiter) -> None:
        """Chunks still being read for ``waiter`` will arrive unpinned."""
        for key in [key for key, other in self._waiters.items() if other is waiter]:
            del self._waiters[key]

    # --- what vLLM's manager calls back --------------------------------------------------------

    def _complete_promotion(self, job_metadata: JobMetadata, completed_job: JobResult) -> None:
        """Pins arrivals for their waiter at once: nothing may evict them in between."""
        super()._complete_promotion(job_metadata, completed_job)
        reasons = completed_job.reasons if isinstance(completed_job, TierResult) else {}
        now = time.monotonic()
        for key in map(ChunkKey, job_metadata.transfer_job.keys):
            self._reading_since.pop(key, None)
            waiter = self._waiters.pop(key, None)
            if waiter is None:
                continue
            if key in reasons or not self.dram.has(key):
                waiter.on_failed(key, reasons.get(key, MissReason.IO_TIMEOUT))
            elif waiter.wants(key):
                self.pin([key])
                waiter.on_ready([key], now)

    def _pop_job(self, job_id: int) -> JobMetadata | None:
        """As vLLM's, for every job that has ended; tells the tier when it was a write."""
        ended: JobMetadata | None = super()._pop_job(job_id)
        if ended is not None and not ended.transfer_job.is_promotion and self.ssd is not None:
            keys = [ChunkKey(key) for key in ended.transfer_job.keys]
            self.ssd.on_stored(keys)
            for key in keys:
                if (standing := self.standing_on_ssd(key)) is not Standing.ORDINARY:
                    self.ssd.rank([key], standing)
        return ended

    # --- inside ---------------------------------------------------------------------------------

    def _start_read(
        self, keys: Sequence[ChunkKey], waiter: ReadWaiter, now: float, owner: SessionKey | None
    ) -> bool:
        """Start one read job; False when DRAM gives no room for it now."""
        assert self.ssd is not None
        context = self._own_context()
        if owner is not None:
            context.set_state(Owner(owner))
        allocated = self.dram.prepare_write([OffloadKey(key) for key in keys], context)
        if allocated is None:
            return False
        assert isinstance(allocated.store_spec, CPULoadStoreSpec)
        job = TierJob(
            job_id=self._next_job_id(),
            keys=allocated.keys_to_store,
            chunk_ids=np.array(allocated.store_spec.chunk_ids, dtype=np.int32),
            is_promotion=True,
            req_context=context,
        )
        self._register_job(job, 0)
        for key in keys:
            self._waiters[key] = waiter
            self._reading_since[key] = now
        waiter.on_reading(keys)
        self.ssd.submit_load(job)
        return True

    def _own_context(self) -> ReqContext:
        """A context for transfers that belong to no request."""
        self._contexts += 1
        return ReqContext(req_id=f"valet-{self._contexts}")
