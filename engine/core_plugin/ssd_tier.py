"""The SSD tier as vLLM sees it: jobs in, results out, a chunk store behind.

Public methods are called on the scheduler thread and never wait for I/O. The store reads on
threads of its own; what changes it happens on one writer thread. One writer means that what is
asked in order happens in order: a delete asked after a write is done after it.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.manifest import Manifests
from cache_tiers.store import ChunkStore, Reading, ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Standing
from engine.core_plugin.owner import owner_of
from engine.core_plugin.public_prefix import OWNER as PUBLIC
from engine.core_plugin.ssd_metrics import SsdMetrics, definitions
from engine.core_plugin.vllm_compat import (
    JobResult,
    LookupResult,
    Medium,
    OffloadingConnectorStats,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    SecondaryTierManager,
    TierJob,
)

logger = logging.getLogger(__name__)

NOBODY = SessionKey("nobody/requests")
"""The owner of chunks of requests that belong to no session."""
READ_DEADLINE_S = 2.0
"""A chunk that takes longer is computed instead."""
_MOST_UNDONE = 1000
_QUEUE_SHARE = 0.5
"""Of DRAM, that chunks waiting to be written may hold: the rest is for requests."""

_REASONS = {
    ReadOutcome.MISSING: MissReason.EVICTED,
    ReadOutcome.CORRUPT: MissReason.CORRUPT_CHUNK,
    ReadOutcome.FAILED: MissReason.IO_TIMEOUT,
    ReadOutcome.LATE: MissReason.IO_TIMEOUT,
}


@dataclass
class TierResult(JobResult):
    """A job's result and, for chunks that could not be read, why."""

    reasons: dict[ChunkKey, MissReason] = field(default_factory=dict)


@dataclass(slots=True)
class _Read:
    """A read job under way."""

    job: TierJob
    keys: list[ChunkKey]
    reading: Reading
    began: float
    told_late: bool = False


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
        store: ChunkStore,
        manifests: Manifests,
        read_deadline_s: float = READ_DEADLINE_S,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, None)
        del backpressure_detector
        self._rows = np.asarray(primary_kv_view)
        self.store = store
        self.manifests = manifests
        self.public: set[ChunkKey] = set()
        """Chunks of public prefixes that requests have named since the start: they belong to no
        session, whichever writes them."""
        self._read_deadline_s = read_deadline_s
        self._most_queued = max(1, int(self._rows.shape[0] * _QUEUE_SHARE))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="valet-write")
        self._reads: list[_Read] = []
        self._finished: deque[TierResult] = deque()
        self._writing: Counter[ChunkKey] = Counter()
        self._dropped_writes = 0
        self._undone: dict[SessionKey, list[ChunkKey]] = {}
        """Drops that the disk failed, and what they shared; the writer thread's."""
        self._persist_asked = False
        self._metrics = SsdMetrics()

    # --- what the manager asks ---------------------------------------------------------------

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """HIT when the store holds the chunk. Memory only."""
        return LookupResult.HIT if self.contains(ChunkKey(key)) else LookupResult.MISS

    def contains(self, key: ChunkKey) -> bool:
        """Whether the store holds ``key``. Memory only."""
        return self.store.contains(key)

    @property
    def budget(self) -> WriteBudget | None:
        """What may be written today; None for whatever comes."""
        return self.store.budget

    def write_room(self) -> int:
        """Chunks that may be handed to ``submit_store`` now."""
        return max(0, self._most_queued - len(self._writing))

    def count_dropped(self, chunks: int) -> None:
        """These are not written: the disk did not take others in time."""
        self._dropped_writes += chunks

    def is_writing(self, keys: Iterable[ChunkKey]) -> bool:
        """Whether any of ``keys`` is on its way to the store."""
        return any(key in self._writing for key in keys)

    def submit_load(self, job_metadata: TierJob) -> None:
        """Read chunks into their DRAM rows."""
        keys, rows = self._keys_and_rows(job_metadata)
        reading = self.store.read(keys, rows, self._read_deadline_s)
        self._reads.append(_Read(job_metadata, keys, reading, time.perf_counter()))

    def submit_store(self, job_metadata: TierJob) -> None:
        """Write chunks from their DRAM rows; those already held are not written again."""
        keys, rows = self._keys_and_rows(job_metadata)
        if not keys:
            self._end(job_metadata, keys, {}, 0.0)
            return
        session = owner_of(job_metadata.req_context) or NOBODY
        owners = [PUBLIC if key in self.public else session for key in keys]
        self._writing.update(keys)

        def write() -> None:
            began = time.perf_counter()
            try:
                reasons = self._write(keys, rows, owners)
            except Exception:
                # The store promises not to raise; a bug in it must still be a miss.
                logger.exception("the chunk store failed on %d chunks", len(keys))
                reasons = dict.fromkeys(keys, MissReason.IO_TIMEOUT)
            self._end(job_metadata, keys, reasons, time.perf_counter() - began)

        self._writer.submit(write)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Results since the last call. A read that is late has none until the disk lets go of its
        rows: they stay the job's, and so nobody else's."""
        self._reads = [read for read in self._reads if not self._ended(read)]
        while self._finished:
            yield self._finished.popleft()

    def take_late(self) -> list[ChunkKey]:
        """Chunks whose deadline has passed since the last call, unread."""
        late: list[ChunkKey] = []
        for read in self._reads:
            outcomes = None if read.told_late else read.reading.outcomes()
            if outcomes is not None:
                read.told_late = True
                late += [
                    key
                    for key, outcome in zip(read.keys, outcomes, strict=True)
                    if outcome is ReadOutcome.LATE
                ]
        return late

    def on_stored(self, keys: Iterable[ChunkKey]) -> None:
        """The manager has taken note that a write job for ``keys`` ended."""
        for key in keys:
            self._writing[key] -= 1
            if self._writing[key] <= 0:
                del self._writing[key]

    def rank(self, keys: Sequence[ChunkKey], standing: Standing) -> None:
        """See ``ChunkStore.rank``; takes effect soon."""
        self._writer.submit(self.store.rank, list(keys), standing)

    def take_evicted_pins(self) -> list[ChunkKey]:
        """See ``ChunkStore``. Memory only."""
        return self.store.take_evicted_pins()

    def drop(
        self, session: SessionKey, orphans: Iterable[ChunkKey], shared: Iterable[ChunkKey]
    ) -> "Future[bool]":
        """Destroy a session's key, but for what it ``shared``, and then forget its chunks, after
        every write asked before. Whether there was a key; raises OSError when the disk fails: the
        key may be there still, the chunks are forgotten, and it can be asked again without them."""
        gone, kept = list(orphans), list(shared)

        def drop() -> bool:
            # Nobody else would know the names when the drop is asked again.
            before = self._undone.pop(session, None)
            keep = [*kept, *(before or ())]
            try:
                there_was = self.store.shred(session, keep)
            except OSError:
                self._undone[session] = keep
                while len(self._undone) > _MOST_UNDONE:
                    del self._undone[next(iter(self._undone))]
                raise
            finally:
                self.store.delete(gone)
            return there_was or before is not None

        return self._writer.submit(drop)

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
        """Block until no job touches DRAM, or the disk has had its time."""
        patience = time.monotonic() + self._read_deadline_s
        wait([self._writer.submit(lambda: None)], self._read_deadline_s)
        while not all(read.reading.released for read in self._reads):
            if time.monotonic() > patience:
                return
            time.sleep(0.001)

    def shutdown(self) -> None:
        """Finish what runs, flush, close."""
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
        return definitions()

    def get_stats(self) -> OffloadingConnectorStats:
        """Gauges as they are, counters since the last call."""
        return self._metrics.since_last(self.store.stats(), self.budget, self._dropped_writes)

    # --- inside ----------------------------------------------------------------------------------

    def _keys_and_rows(self, job: TierJob) -> tuple[list[ChunkKey], list[memoryview]]:
        keys = [ChunkKey(key) for key in job.keys]
        return keys, [memoryview(self._rows[int(row)]) for row in job.chunk_ids]

    def _ended(self, read: _Read) -> bool:
        """Whether a read is over; its result is noted then."""
        outcomes = read.reading.outcomes()
        if outcomes is None or not read.reading.released:
            return False
        reasons = {
            key: _REASONS[outcome]
            for key, outcome in zip(read.keys, outcomes, strict=True)
            if outcome is not ReadOutcome.OK
        }
        self._end(read.job, read.keys, reasons, time.perf_counter() - read.began)
        return True

    def _end(
        self,
        job: TierJob,
        keys: list[ChunkKey],
        reasons: dict[ChunkKey, MissReason],
        seconds: float,
    ) -> None:
        good = [key for key in keys if key not in reasons]
        self._finished.append(
            TierResult(
                job_id=job.job_id,
                success=not reasons,
                successful_keys=good,
                transfer_time=seconds,
                transfer_bytes=len(good) * self.block_size_bytes,
                reasons=reasons,
            )
        )

    def _write(
        self, keys: list[ChunkKey], rows: list[memoryview], owners: list[SessionKey]
    ) -> dict[ChunkKey, MissReason]:
        reasons: dict[ChunkKey, MissReason] = {}
        for owner in dict.fromkeys(owners):
            own = [i for i, each in enumerate(owners) if each == owner]
            outcomes = self.store.put([keys[i] for i in own], [rows[i] for i in own], owner)
            for i, outcome in zip(own, outcomes, strict=True):
                if outcome is WriteOutcome.REFUSED:
                    reasons[keys[i]] = MissReason.STORE_DISABLED
        return reasons
