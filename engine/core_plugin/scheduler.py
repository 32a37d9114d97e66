"""The scheduler side of the connector: streams loads, drains stores, reports, runs operations.

Extends vLLM's own, which plans what to load and store; what changes is *how* a load is carried out
(in windows, see ``load_stream.py``), that a finished request keeps its device blocks until they are
saved, and that failures end in a recomputation. Scheduler thread only.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from cache_tiers import hints
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.manager import DeferredLoad, TierManager
from engine.core_plugin.operations import Operation
from engine.core_plugin.reports import ReportLedger
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import (
    CPULoadStoreSpec,
    GPULoadStoreSpec,
    KVConnectorOutput,
    OffloadingConnectorMetadata,
    OffloadingConnectorScheduler,
    OffloadingWorkerMetadata,
    RequestOffloadState,
    RequestStatus,
    TransferJob,
)

LOAD_PATIENCE_S = 5.0
"""A load without progress for this long is given up and recomputed."""
STORE_PATIENCE_S = 10.0
"""A finished request's device blocks are kept at most this long for chunks not yet saved."""


@dataclass
class ValetMetadata(OffloadingConnectorMetadata):
    """Scheduler → workers, one a step. Workers echo the ended requests back, which is the only way
    in which vLLM lets a connector say that a request's load or store is over."""

    loads_ended: frozenset[str] = frozenset()
    loads_failed: frozenset[str] = frozenset()
    stores_ended: frozenset[str] = frozenset()
    failed_blocks: frozenset[int] = frozenset()


@dataclass(slots=True)
class Load:
    """One running load: vLLM's job, our stream."""

    job_id: int
    state: RequestOffloadState
    stream: LoadStream


@dataclass(slots=True)
class Part:
    """One copy of a run of chunks, carried out by every worker."""

    load: Load
    keys: list[ChunkKey]
    workers_left: int


class ValetScheduler(OffloadingConnectorScheduler):
    """See the module's docstring."""

    manager: TierManager

    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        self.tokens_per_chunk: int = max(g.tokens_per_chunk for g in self.config.kv_group_configs)
        self.sessions = SessionChunks(
            self.manager, self.config.blocks_per_chunk, self.tokens_per_chunk
        )
        self.ledger = ReportLedger(
            self.tokens_per_chunk, store_enabled=self.manager.ssd is not None
        )
        # Half of DRAM: stores and other streams go on beside a stream.
        self._window = max(1, self.manager.capacity // 2)
        self._loads: dict[int, Load] = {}
        self._parts: dict[int, Part] = {}
        self._awaiting_echo: set[str] = set()
        self._draining: dict[str, float] = {}
        self._operations: list[tuple[Operation, Future[bytes]]] = []
        self._forget_echoes()

    # --- requests come and go ------------------------------------------------------------------

    def on_new_request(self, request: Any) -> None:
        """vLLM's, and opens the request's record."""
        super().on_new_request(request)
        session = SessionKey(request.session_id) if request.session_id else None
        held = self.sessions.chain(session) if session else None
        if session:
            self.sessions.begin_use(session)
        self.ledger.begin(request.request_id, session, held)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Device blocks are allocated: note what was reused; open a stream for what is loaded."""
        state = self._req_status[request.request_id]
        record = self.ledger.get(request.request_id)
        first = record is not None and not record.admitted
        if record is not None and first:
            record.admitted = True
            record.device = state.num_locally_computed_tokens
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens == 0:
            return
        job_id, job = self._current_batch_load_jobs.popitem()
        assert isinstance(job.src_spec, DeferredLoad)
        assert isinstance(job.dst_spec, GPULoadStoreSpec)
        now = time.monotonic()
        items = split_by_chunk(job.src_spec.keys, job.dst_spec, self.config.blocks_per_chunk)
        stream = LoadStream(items, now=now, patience_s=LOAD_PATIENCE_S)
        load = Load(job_id, state, stream)
        self._loads[job_id] = load
        if record is not None and first:
            self._note_origins(record, load)
        self.manager.bring([i.key for i in items if self.manager.dram.has(i.key)], stream, now)
        self._advance(load, now)

    def request_finished(self, request: Any) -> tuple[bool, dict[str, Any] | None]:
        """The request is over: its report goes out with it; unsaved chunks keep its blocks."""
        super().request_finished(request)
        state = self._req_status.get(request.request_id)
        if state is None:
            return False, None
        for load in self._loads.values():
            if load.state is state:
                load.stream.give_up(MissReason.IO_TIMEOUT)
        self._remember(request, _chain(state))
        report = self.ledger.finish(request.request_id, request.num_prompt_tokens, _prompt(state))
        # A request that is still loading is freed by the echo of its load instead.
        loading = request.request_id in self._awaiting_echo or any(
            load.state is state for load in self._loads.values()
        )
        keep_blocks = not loading and self._unsaved(state) > 0
        if keep_blocks:
            self._draining[request.request_id] = time.monotonic() + STORE_PATIENCE_S
        params = None if report is None else {"valet": hints.encode(hints.Report(report))}
        return keep_blocks, params

    def report(self, external_id: str) -> hints.KvReport | None:
        """The report of a request by the id it was submitted under, finished or about to be."""
        for request_id, state in self._req_status.items():
            if external_id in request_id and self.ledger.get(request_id) is not None:
                return self.ledger.preview(request_id, state.req.num_prompt_tokens, _prompt(state))
        return self.ledger.find_finished(external_id)

    # --- every step ----------------------------------------------------------------------------

    def build_connector_meta(self, scheduler_output: Any) -> ValetMetadata:
        """Advance loads, stores and operations; the step's orders for the workers."""
        now = time.monotonic()
        self.manager.poll()
        for load in list(self._loads.values()):
            load.stream.check_patience(now)
            self._advance(load, now)
        finished = self._finished_drains(scheduler_output.finished_req_ids or set(), now)
        step = dataclasses.replace(scheduler_output, finished_req_ids=finished)
        meta = super().build_connector_meta(step)
        self._poll_operations(now)
        result = ValetMetadata(
            load_jobs=meta.load_jobs,
            store_jobs=meta.store_jobs,
            jobs_to_flush=meta.jobs_to_flush,
            loads_ended=frozenset(self._loads_ended),
            loads_failed=frozenset(self._loads_failed),
            stores_ended=frozenset(self._stores_ended),
            failed_blocks=frozenset(self._failed_blocks),
        )
        self._forget_echoes()
        return result

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Workers report finished copies: parts are ours, stores are vLLM's."""
        meta = connector_output.kv_connector_worker_meta
        if isinstance(meta, OffloadingWorkerMetadata):
            for job_id in [job_id for job_id in meta.completed_jobs if job_id in self._parts]:
                self._on_part(job_id, meta.completed_jobs.pop(job_id))
        super().update_connector_output(connector_output)
        self._awaiting_echo.difference_update(connector_output.finished_recving or ())

    def has_pending_push_work(self) -> bool:
        """Whether the engine must keep stepping without requests."""
        return (
            super().has_pending_push_work()
            or bool(self._draining or self._operations)
            or bool(self._loads_ended or self._stores_ended)
        )

    def run(self, operation: Operation) -> "Future[bytes]":
        """Poll ``operation`` every step; its encoded reply."""
        future: Future[bytes] = Future()
        self._operations.append((operation, future))
        return future

    def is_quiet(self, session: SessionKey | None) -> bool:
        """No request of the session (None: of any) runs or still has chunks to save."""
        if session is None:
            return not self._req_status
        return all(state.req.session_id != session for state in self._req_status.values())

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """The session's chunks in prefix order."""
        return self.sessions.chain(session)

    def describe(self, session: SessionKey) -> hints.SessionKv:
        """Where the session's chunks are."""
        return self.sessions.describe(session)

    def park(self, session: SessionKey) -> None:
        """See SessionChunks."""
        self.sessions.park(session)

    def forget(self, session: SessionKey) -> list[ChunkKey]:
        """See SessionChunks."""
        return self.sessions.forget(session)

    # --- loads -----------------------------------------------------------------------------------

    def _advance(self, load: Load, now: float) -> None:
        """Read what fits the window, copy what is ready, end what has ended."""
        stream = load.stream
        wanted = stream.to_read(self._window - stream.in_dram())
        if wanted:
            self.manager.bring(wanted, stream, now)
        while run := stream.take_run():
            keys = [item.key for item in run]
            part_id = self._generate_job_id()
            self._parts[part_id] = Part(load, keys, self.config.num_workers)
            self._current_batch_load_jobs[part_id] = TransferJob(
                req_id=load.state.req.request_id,
                src_spec=CPULoadStoreSpec(self.manager.rows(keys).block_ids.tolist()),
                dst_spec=destination(run, len(self.config.kv_group_configs)),
            )
        if stream.ended:
            self._end(load, now)

    def _on_part(self, part_id: int, workers: int) -> None:
        part = self._parts[part_id]
        part.workers_left -= workers
        if part.workers_left > 0:
            return
        del self._parts[part_id]
        now = time.monotonic()
        self.manager.unpin(part.keys)
        self.manager.mark_used(part.keys)
        part.load.stream.on_copied(part.keys, now)
        if part.load.stream.ended:
            self._end(part.load, now)

    def _end(self, load: Load, now: float) -> None:
        """The load is over, whole or not: tell vLLM, and vLLM's workers."""
        if self._loads.pop(load.job_id, None) is None:
            return
        stream, state = load.stream, load.state
        self.manager.forget_waiter(stream)
        self.manager.unpin(stream.pinned_leftovers())
        if stream.failure is not None:
            self._on_failed_load(load)
        record = self.ledger.get(state.req.request_id)
        if record is not None:
            record.load_ms += (now - stream.opened_at) * 1000
        completed = OffloadingWorkerMetadata(completed_jobs={load.job_id: self.config.num_workers})
        super().update_connector_output(KVConnectorOutput(kv_connector_worker_meta=completed))
        self._loads_ended.add(state.req.request_id)
        self._awaiting_echo.add(state.req.request_id)

    def _on_failed_load(self, load: Load) -> None:
        """Blocks that hold nothing are given back to be computed, and saved again."""
        request = load.state.req
        lost = load.stream.lost()
        if request.is_finished() or not lost:
            return
        if len(load.state.group_states) == 1:
            self._failed_blocks.update(block for item in lost for block in item.block_ids)
            valid = lost[0].first_block * self.config.kv_group_configs[0].tokens_per_block
        else:
            # Block numbers of several groups overlap: vLLM then takes the whole request back.
            self._loads_failed.add(request.request_id)
            valid = 0
        for group, config in zip(
            load.state.group_states, self.config.kv_group_configs, strict=True
        ):
            group.next_stored_chunk_idx = min(
                group.next_stored_chunk_idx, valid // config.tokens_per_chunk
            )
        record = self.ledger.get(request.request_id)
        if record is None:
            return
        record.failure = load.stream.failure
        lost_tokens = self._tokens(lost)
        origins = self.manager.origins(load.state.req_context)
        for item in lost:
            tier = origins.tiers.get(item.key, Tier.SSD)
            tokens = self._tokens((item,))
            record.tokens_by_tier[tier] = max(0, record.tokens_by_tier.get(tier, 0) - tokens)
            record.bytes_loaded -= self.manager.chunk_bytes
        if (stats := request.prefill_stats) is not None:
            stats.set(
                num_prompt_tokens=request.num_prompt_tokens,
                num_local_cached_tokens=stats.num_local_cached_tokens,
                num_external_cached_tokens=max(0, stats.num_external_cached_tokens - lost_tokens),
            )

    def _note_origins(self, record: Any, load: Load) -> None:
        origins = self.manager.origins(load.state.req_context)
        for item in load.stream.items:
            tokens = self._tokens((item,))
            tier = origins.tiers.get(item.key, Tier.SSD)
            record.tokens_by_tier[tier] = record.tokens_by_tier.get(tier, 0) + tokens
            record.bytes_loaded += self.manager.chunk_bytes
            if item.key in origins.prefetched:
                record.prefetched += tokens

    def _tokens(self, items: Sequence[LoadItem]) -> int:
        """Prompt tokens of chunks, counted in the first group: others cover the same tokens."""
        per_block: int = self.config.kv_group_configs[0].tokens_per_block
        return sum(len(item.block_ids) * per_block for item in items if item.group == 0)

    # --- stores ----------------------------------------------------------------------------------

    def _calc_num_offloadable_tokens(
        self, req_status: RequestOffloadState, num_computed_tokens: int
    ) -> int:
        """At most a window's worth of new chunks a step: what does not fit DRAM at once waits."""
        tokens: int = super()._calc_num_offloadable_tokens(req_status, num_computed_tokens)
        stored = min(group.next_stored_chunk_idx for group in req_status.group_states)
        limit = (stored + self._store_window(req_status)) * self.tokens_per_chunk
        return min(tokens, limit)

    def _build_store_jobs(self, scheduler_output: Any) -> dict[int, TransferJob]:
        """vLLM's, over draining requests too."""
        finished = set(scheduler_output.finished_req_ids) | set(self._draining)
        step = dataclasses.replace(scheduler_output, finished_req_ids=finished)
        jobs: dict[int, TransferJob] = super()._build_store_jobs(step)
        return jobs

    def _store_window(self, state: RequestOffloadState) -> int:
        groups = len(state.group_states)
        return max(1, self.manager.capacity // 4 // groups)

    def _unsaved(self, state: RequestOffloadState) -> int:
        """Chunks of a finished request that have not been handed to a store yet."""
        request = state.req
        if request.status is RequestStatus.FINISHED_ABORTED:
            tokens = request.num_computed_tokens
        else:
            tokens = max(request.num_prompt_tokens, request.num_tokens - 1)
        return sum(
            max(0, self._storable(state, i, tokens) - group.next_stored_chunk_idx)
            for i, group in enumerate(state.group_states)
        )

    def _storable(self, state: RequestOffloadState, group: int, tokens: int) -> int:
        config, group_state = self.config.kv_group_configs[group], state.group_states[group]
        chunks: int = state.storable_chunks(config, group_state, tokens)
        return chunks

    def _finished_drains(self, finished: set[str], now: float) -> set[str]:
        """Requests that vLLM may forget in this step: those that are done saving."""
        done = set(finished) - set(self._draining)
        for request_id, deadline in list(self._draining.items()):
            state = self._req_status.get(request_id)
            saved = state is None or (not state.transfer_jobs and self._unsaved(state) == 0)
            if saved or (now > deadline and not (state and state.transfer_jobs)):
                del self._draining[request_id]
                self._stores_ended.add(request_id)
                done.add(request_id)
        return done

    # --- sessions and operations -----------------------------------------------------------------

    def _remember(self, request: Any, chain: Sequence[tuple[ChunkKey, int]]) -> None:
        """The session's chain is now this request's computed chunks."""
        if not request.session_id:
            return
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        computed = max(computed, 0)
        keys = [key for key, end in chain if end <= computed]
        if keys:
            self.sessions.remember(SessionKey(request.session_id), keys, request.block_hashes)

    def _poll_operations(self, now: float) -> None:
        still = []
        for operation, future in self._operations:
            reply = operation.poll(now)
            if reply is None:
                still.append((operation, future))
            else:
                future.set_result(hints.encode(reply))
        self._operations = still

    def _forget_echoes(self) -> None:
        self._loads_ended: set[str] = set()
        self._loads_failed: set[str] = set()
        self._stores_ended: set[str] = set()
        self._failed_blocks: set[int] = set()


def split_by_chunk(
    keys: Sequence[ChunkKey], destination: GPULoadStoreSpec, blocks_per_chunk: int
) -> list[LoadItem]:
    """A load's destination, chunk by chunk. ``keys`` are in the order of ``destination``'s blocks:
    group after group, each group's chunks in logical order."""
    blocks = destination.block_ids.tolist()
    items: list[LoadItem] = []
    at = 0
    names = iter(keys)
    for group, (count, first) in enumerate(
        zip(destination.group_sizes, destination.block_indices, strict=True)
    ):
        taken = 0
        while taken < count:
            logical = first + taken
            size = min(blocks_per_chunk - logical % blocks_per_chunk, count - taken)
            start = at + taken
            items.append(LoadItem(next(names), group, logical, tuple(blocks[start : start + size])))
            taken += size
        at += count
    return items


def destination(run: Sequence[LoadItem], groups: int) -> GPULoadStoreSpec:
    """The device blocks of a run of contiguous chunks of one group."""
    sizes, indices = [0] * groups, [0] * groups
    sizes[run[0].group] = sum(len(item.block_ids) for item in run)
    indices[run[0].group] = run[0].first_block
    blocks = [block for item in run for block in item.block_ids]
    return GPULoadStoreSpec(blocks, group_sizes=sizes, block_indices=indices)


def _chain(state: RequestOffloadState) -> list[tuple[ChunkKey, int]]:
    """A request's chunks in prefix order, each with the token at which it ends."""
    positions = state.req_context._offload_key_positions
    return [(ChunkKey(key), positions[key]) for key in sorted(positions, key=positions.__getitem__)]


def _prompt(state: RequestOffloadState) -> list[ChunkKey]:
    """The chunks that lie whole within the request's prompt."""
    return [key for key, end in _chain(state) if end <= state.req.num_prompt_tokens]
