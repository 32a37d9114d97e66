"""The SSD tier as vLLM sees it: jobs in, results out, a chunk store behind.

Public methods are called on the scheduler thread and never wait for I/O. Store I/O happens on
``READ_THREADS`` reader threads and one writer thread. One writer means that what is asked in order
happens in order: a delete asked after a write is done after it.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.store import SsdConfig, SsdStore
from cache_tiers.store import ChunkStore, ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.vllm_compat import (
    JobResult,
    LookupResult,
    Medium,
    OffloadingConnectorStats,
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    SecondaryTierManager,
    TierJob,
)

logger = logging.getLogger(__name__)

READ_THREADS = 2

_REASONS = {
    ReadOutcome.MISSING: MissReason.EVICTED,
    ReadOutcome.CORRUPT: MissReason.CORRUPT_CHUNK,
    ReadOutcome.FAILED: MissReason.IO_TIMEOUT,
}


class SsdMetrics:
    """Names of the tier's own metrics on ``/metrics``."""

    BYTES_USED = "vllm:valet_ssd_bytes_used"
    BYTES_LIMIT = "vllm:valet_ssd_bytes_limit"
    HEALTHY = "vllm:valet_ssd_healthy"
    CORRUPT = "vllm:valet_ssd_corrupt_chunks"
    EVICTED = "vllm:valet_ssd_evicted_chunks"
    FAILED_READS = "vllm:valet_ssd_failed_reads"
    FAILED_WRITES = "vllm:valet_ssd_failed_writes"


_GAUGES = {
    SsdMetrics.BYTES_USED: "Bytes that the chunk store takes on its disk.",
    SsdMetrics.BYTES_LIMIT: "Limit of the chunk store in bytes.",
    SsdMetrics.HEALTHY: "1 while the chunk store's disk takes writes, else 0.",
}
_COUNTERS = {
    SsdMetrics.CORRUPT: "Chunks found not to be what was written.",
    SsdMetrics.EVICTED: "Chunks evicted to stay within the limit.",
    SsdMetrics.FAILED_READS: "Chunk reads that the disk failed.",
    SsdMetrics.FAILED_WRITES: "Chunk writes that the disk refused.",
}


@dataclass
class TierResult(JobResult):
    """A job's result and, for chunks that could not be read, why."""

    reasons: dict[ChunkKey, MissReason] = field(default_factory=dict)


class SsdTier(SecondaryTierManager):
    """See the module's docstring for threads."""

    medium = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: object = None,
        *,
        root: str,
        fingerprint: str,
        bytes_limit: int,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, None)
        del backpressure_detector
        self._rows = np.asarray(primary_kv_view)
        self.store: ChunkStore = SsdStore.open(
            SsdConfig(
                root=Path(root),
                fingerprint=fingerprint,
                chunk_bytes=self.block_size_bytes,
                bytes_limit=bytes_limit,
            )
        )
        self.manifests = Manifests.open(Path(root) / fingerprint / "manifests")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="valet-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="valet-write")
        self._finished: deque[TierResult] = deque()
        self._writing: Counter[ChunkKey] = Counter()
        self._persist_asked = False
        self._told = dict.fromkeys(_COUNTERS, 0)

    # --- what the manager asks ---------------------------------------------------------------

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """HIT when the store holds the chunk. Memory only."""
        return LookupResult.HIT if self.contains(ChunkKey(key)) else LookupResult.MISS

    def contains(self, key: ChunkKey) -> bool:
        """Whether the store holds ``key``. Memory only."""
        return self.store.contains(key)

    def is_writing(self, keys: Iterable[ChunkKey]) -> bool:
        """Whether any of ``keys`` is on its way to the store."""
        return any(key in self._writing for key in keys)

    def submit_load(self, job_metadata: TierJob) -> None:
        """Read chunks into their DRAM rows."""
        self._submit(self._readers, job_metadata, self._read)

    def submit_store(self, job_metadata: TierJob) -> None:
        """Write chunks from their DRAM rows; those already held are not written again."""
        self._writing.update(ChunkKey(key) for key in job_metadata.keys)
        self._submit(self._writer, job_metadata, self._write)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Results since the last call."""
        while self._finished:
            yield self._finished.popleft()

    def on_stored(self, keys: Iterable[OffloadKey]) -> None:
        """The manager has taken note that a write job for ``keys`` ended."""
        for key in keys:
            self._writing[ChunkKey(key)] -= 1
            if self._writing[ChunkKey(key)] <= 0:
                del self._writing[ChunkKey(key)]

    def delete(self, keys: Iterable[ChunkKey]) -> "Future[int]":
        """Forget chunks, after every write asked before."""
        return self._writer.submit(self.store.delete, list(keys))

    def flush(self) -> "Future[None]":
        """Everything asked before is safe from power loss when the future is done."""

        def flush() -> None:
            self.manifests.persist()
            self.store.flush()

        return self._writer.submit(flush)

    def persist_manifests(self) -> None:
        """Write changed manifests soon; many changes make one write."""
        if self._persist_asked:
            return
        self._persist_asked = True

        def persist() -> None:
            self._persist_asked = False
            self.manifests.persist()

        self._writer.submit(persist)

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """No preference: chunks are stored as they come."""
        return RequestOffloadingContext()

    def drain_jobs(self) -> None:
        """Block until no job touches DRAM."""
        self._readers.shutdown(wait=True)
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="valet-read")
        self._writer.submit(lambda: None).result()

    def shutdown(self) -> None:
        """Finish what runs, flush, close."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._writer.submit(self.manifests.persist)
        self._writer.shutdown(wait=True)
        self.store.close()
        # The DRAM region can only be unmapped when nothing points into it any more.
        self._rows = np.empty((0, 0), dtype=np.int8)

    # --- metrics ---------------------------------------------------------------------------------

    @classmethod
    def build_metric_definitions(
        cls, extra_config: dict[str, Any]
    ) -> dict[str, OffloadingMetricMetadata]:
        """The tier's gauges and counters."""
        definitions: dict[str, OffloadingMetricMetadata] = {}
        for name, text in _GAUGES.items():
            definitions[name] = OffloadingGaugeMetadata(documentation=text)
        for name, text in _COUNTERS.items():
            definitions[name] = OffloadingCounterMetadata(documentation=text)
        return definitions

    def get_stats(self) -> OffloadingConnectorStats:
        """Gauges as they are, counters since the last call."""
        now = self.store.stats()
        stats = OffloadingConnectorStats()
        stats.set_gauge(SsdMetrics.BYTES_USED, now.bytes_used)
        stats.set_gauge(SsdMetrics.BYTES_LIMIT, now.bytes_limit)
        stats.set_gauge(SsdMetrics.HEALTHY, float(now.healthy))
        totals = {
            SsdMetrics.CORRUPT: now.corrupt_chunks,
            SsdMetrics.EVICTED: now.evicted_chunks,
            SsdMetrics.FAILED_READS: now.failed_reads,
            SsdMetrics.FAILED_WRITES: now.failed_writes,
        }
        for name, total in totals.items():
            if total > self._told[name]:
                stats.increase_counter(name, total - self._told[name])
                self._told[name] = total
        return stats

    # --- on the I/O threads -

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        job: TierJob,
        transfer: Callable[[list[ChunkKey], list[memoryview]], dict[ChunkKey, MissReason]],
    ) -> None:
        keys = [ChunkKey(key) for key in job.keys]
        rows = [memoryview(self._rows[int(row)]) for row in job.chunk_ids]

        def run() -> None:
            began = time.perf_counter()
            try:
                reasons = transfer(keys, rows)
            except Exception:
                # The store promises not to raise; a bug in it must still be a miss.
                logger.exception("the chunk store failed on %d chunks", len(keys))
                reasons = dict.fromkeys(keys, MissReason.IO_TIMEOUT)
            good = [key for key in keys if key not in reasons]
            self._finished.append(
                TierResult(
                    job_id=job.job_id,
                    success=not reasons,
                    successful_keys=good,
                    transfer_time=time.perf_counter() - began,
                    transfer_bytes=len(good) * self.block_size_bytes,
                    reasons=reasons,
                )
            )

        pool.submit(run)

    def _read(self, keys: list[ChunkKey], rows: list[memoryview]) -> dict[ChunkKey, MissReason]:
        outcomes = self.store.get(keys, rows)
        return {
            key: _REASONS[outcome]
            for key, outcome in zip(keys, outcomes, strict=True)
            if outcome is not ReadOutcome.OK
        }

    def _write(self, keys: list[ChunkKey], rows: list[memoryview]) -> dict[ChunkKey, MissReason]:
        outcomes = self.store.put(keys, rows)
        return {
            key: MissReason.STORE_DISABLED
            for key, outcome in zip(keys, outcomes, strict=True)
            if outcome is WriteOutcome.REFUSED
        }
