"""The scheduler side of the connector: streams loads, drains stores, reports, runs operations.

Extends vLLM's own, which plans what to load and store; what changes is *how* a load is carried out
(in windows, see ``load_stream.py``), that a finished request keeps its device blocks until they are
saved, and that failures end in a recomputation. Scheduler thread only.
"""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from cache_tiers import hints
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.pace import Pace
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.admittance import Admittance, Prompt
from engine.core_plugin.choice import Choice
from engine.core_plugin.desk import ControlDesk
from engine.core_plugin.device_room import DeviceRoom
from engine.core_plugin.drains import Drains
from engine.core_plugin.foresight import Foresight
from engine.core_plugin.load_ends import LoadEnds
from engine.core_plugin.load_records import LoadRecords
from engine.core_plugin.load_stream import LoadStream
from engine.core_plugin.loads import FILL, LOAD_PATIENCE_S, Loads, split_by_chunk
from engine.core_plugin.manager import DeferredLoad, TierManager
from engine.core_plugin.orders import Orders, ValetMetadata
from engine.core_plugin.owner import Owner
from engine.core_plugin.prefetch_metrics import PrefetchMetrics
from engine.core_plugin.public_prefix import PublicSalt
from engine.core_plugin.reports import ReportLedger, RequestRecord
from engine.core_plugin.request_chain import chain_of, prompt_of
from engine.core_plugin.request_prefetch import RequestPrefetch
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.ssd_outlook import SsdOutlook
from engine.core_plugin.turn_memory import TurnMemory
from engine.core_plugin.vllm_compat import (
    GPULoadStoreSpec,
    KVConnectorOutput,
    OffloadingConnectorScheduler,
    OffloadingConnectorStats,
    OffloadingWorkerMetadata,
    RequestOffloadState,
    TransferJob,
)


class ValetScheduler(OffloadingConnectorScheduler):
    """See the module's docstring."""

    manager: TierManager

    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        groups, workers = self.config.kv_group_configs, self.config.num_workers
        block_tokens = [group.tokens_per_block for group in groups]
        self.tokens_per_chunk: int = max(group.tokens_per_chunk for group in groups)
        self.sessions = SessionChunks(
            self.manager, self.config.blocks_per_chunk, self.tokens_per_chunk
        )
        self.admittance = Admittance(
            self.manager,
            self.sessions,
            tokens_per_chunk=self.tokens_per_chunk,
            minimum_tokens=int(spec.extra_config["ssd_minimum_tokens"]),
        )
        self.ledger = ReportLedger(
            self.tokens_per_chunk, store_enabled=self.manager.ssd is not None
        )
        self.loads = Loads(
            self.manager,
            workers=workers,
            groups=len(groups),
            new_job_id=self._generate_job_id,
        )
        self.info = hints.EngineInfo(
            fingerprint=spec.fingerprint,
            tokens_per_chunk=self.tokens_per_chunk,
            chunk_bytes=self.manager.chunk_bytes,
            dram_chunks=self.manager.capacity,
            ssd_enabled=self.manager.ssd is not None,
        )
        self.costs = LearnedCosts(self.manager.chunk_bytes)
        self.choice = Choice(
            self.manager,
            self.loads,
            self.costs,
            chunk_tokens=self.tokens_per_chunk,
            groups=len(groups),
            workers=workers,
            pace=Pace(spec.load_slowdown),
        )
        self.foresight = Foresight(
            self.manager,
            self.sessions,
            self.costs,
            tokens_per_chunk=self.tokens_per_chunk,
            prefetch=bool(spec.extra_config["prefetch"]),
            worth=lambda session, chain: self.choice.worth(
                chain, self.sessions.leading_there(session, chain)
            ),
        )
        self._ssd_outlook = SsdOutlook(
            self.manager,
            self.sessions,
            self.foresight.returns,
            self.costs,
            self.foresight.running,
            tokens_per_chunk=self.tokens_per_chunk,
        )
        self.desk = ControlDesk(self)
        if self.can_fill:
            self.foresight.planning.fills.bind(self.desk.fill)
        self._orders = Orders()
        self._drains = Drains(self._req_status)
        self.memory = TurnMemory(self.sessions, self.ledger, self._req_status)
        self._records = LoadRecords(
            self.manager,
            block_tokens=block_tokens[0],
            chunk_tokens=self.tokens_per_chunk,
        )
        self._load_ends = LoadEnds(
            self._orders,
            self.ledger,
            self._records,
            block_tokens=block_tokens[0],
            chunk_tokens=[group.tokens_per_chunk for group in groups],
        )
        self._prefetch = RequestPrefetch(
            self._req_status,
            self.ledger,
            self.foresight,
            self.loads,
            self.choice,
            self._records,
            chunk_tokens=self.tokens_per_chunk,
        )
        self._room = DeviceRoom(
            self.sessions,
            self.foresight,
            self.ledger,
            self._is_loading,
            block_tokens=block_tokens,
            one_group=self.can_fill,
        )
        self._prefetch_metrics = PrefetchMetrics()
        self._has_filled = False
        """A fill has ended since operations were polled."""

    # --- requests come and go ------------------------------------------------------------------

    def on_new_request(self, request: Any) -> None:
        """vLLM's, and opens the request's record."""
        super().on_new_request(request)
        session = SessionKey(request.session_id) if request.session_id else None
        held = self.sessions.chain(session) if session else None
        if session:
            self.sessions.begin_use(session)
            self.foresight.request_came(session)
            self._req_status[request.request_id].req_context.set_state(Owner(session))
            self._prefetch.queued(request.request_id)
        self.ledger.begin(request.request_id, session, held)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int, max_num_new_tokens: int | None = None
    ) -> tuple[int | None, bool]:
        """vLLM's; it allocates blocks next, so what is worth less, and pins, give way to the
        request here. One whose chunks are just being brought to the device waits for them."""
        if self._prefetch.awaits_fill(request.request_id):
            return None, False
        self._room.make(request, num_computed_tokens)
        tokens, is_async = super().get_num_new_matched_tokens(
            request, num_computed_tokens, max_num_new_tokens
        )
        if not tokens:
            return tokens, is_async
        state = self._req_status[request.request_id]
        record = self.ledger.get(request.request_id)
        worth_loading = self.choice.asked(state, tokens, record, time.monotonic())
        state.update_num_hit_chunks(num_computed_tokens + worth_loading)
        return worth_loading, worth_loading > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Device blocks are allocated: note what was reused; open a stream for what is loaded."""
        state = self._req_status[request.request_id]
        record = self.ledger.get(request.request_id)
        first = record is not None and not record.admitted
        if record is not None and first:
            record.admitted = True
            record.device = state.num_locally_computed_tokens
            self._note_public(request, state)
            self._admit(request, state, record)
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens == 0:
            if record is not None and first:
                self._prefetch.found(record)
            return
        job_id, job = self._current_batch_load_jobs.popitem()
        assert isinstance(job.src_spec, DeferredLoad)
        assert isinstance(job.dst_spec, GPULoadStoreSpec)
        now = time.monotonic()
        items = split_by_chunk(job.src_spec.keys, job.dst_spec, self.config.blocks_per_chunk)
        stream = LoadStream(items, now=now, patience_s=LOAD_PATIENCE_S)
        if record is not None and first:
            self._records.opened(record, state, stream)
            self._prefetch.found(record)
        end = partial(self._on_load_ended, job_id, state)
        self.loads.open(request.request_id, stream, end, now)
        self.choice.opened(request.request_id, stream, now)

    def request_finished(self, request: Any) -> tuple[bool, dict[str, Any] | None]:
        """The request is over: its report goes out with it; unsaved chunks keep its blocks."""
        super().request_finished(request)
        state = self._req_status.get(request.request_id)
        if state is None:
            return False, None
        self.loads.give_up(request.request_id)
        self.choice.forget(request.request_id)
        superseded = self.memory.remember(state)
        if request.session_id and self.memory.is_alone(request):
            self.foresight.request_over(SessionKey(request.session_id))
        report = self.ledger.finish(
            request.request_id, request.num_prompt_tokens, prompt_of(state), superseded
        )
        # A request that is still loading is freed by the end of its load instead.
        loading = self._is_loading(request.request_id)
        keep_blocks = not loading and self._drains.begin(request.request_id, time.monotonic())
        params = None if report is None else {"valet": hints.encode(hints.Report(report))}
        return keep_blocks, params

    def report(self, external_id: str) -> hints.KvReport | None:
        """The report of a request by the id it was submitted under, finished or about to be."""
        for request_id, state in self._req_status.items():
            if external_id in request_id and self.ledger.get(request_id) is not None:
                return self.ledger.preview(
                    request_id,
                    state.req.num_prompt_tokens,
                    prompt_of(state),
                    self.memory.leaves_behind(state),
                )
        return self.ledger.find_finished(external_id)

    # --- every step ----------------------------------------------------------------------------

    def build_connector_meta(self, scheduler_output: Any) -> ValetMetadata:
        """Advance loads, stores and operations; the step's orders for the workers."""
        now = time.monotonic()
        self.manager.poll()
        self.choice.begin_step(scheduler_output, self._req_status, now)
        self.sessions.standings.poll(now)
        self._prefetch.look_ahead()
        if not scheduler_output.total_num_scheduled_tokens:
            self._room.free_the_stuck(self._req_status)
        self._current_batch_load_jobs.update(self.loads.advance(now))
        finished = set(scheduler_output.finished_req_ids or ()) - self._drains.requests
        finished |= self._end_drains(now)
        step = dataclasses.replace(scheduler_output, finished_req_ids=finished)
        meta = super().build_connector_meta(step)
        self.desk.poll(now)
        self._poll_foresight(now)
        return self._orders.send_with(meta)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Workers report finished copies: parts are ours, stores are vLLM's."""
        meta = connector_output.kv_connector_worker_meta
        if isinstance(meta, OffloadingWorkerMetadata):
            now = time.monotonic()
            self.choice.end_step(meta, self._req_status, now)
            self.loads.take_completed(meta.completed_jobs, now)
            if self._has_filled:
                # The blocks are adopted before requests ask again.
                self.desk.poll(now)
                self._has_filled = False
        self._load_ends.tell(connector_output)
        super().update_connector_output(connector_output)

    def has_pending_push_work(self) -> bool:
        """Whether the engine must keep stepping without requests."""
        own = self._drains or self.desk or self._orders or self.foresight.busy
        return super().has_pending_push_work() or bool(own)

    def get_stats(self) -> OffloadingConnectorStats | None:
        """vLLM's, and what prefetches were good for."""
        stats: OffloadingConnectorStats | None = super().get_stats()
        ours = self._prefetch_metrics.since_last(self.foresight.planning.brought())
        if ours.is_empty():
            return stats
        if stats is not None:
            ours.aggregate(stats)
        return ours

    def is_quiet(self, session: SessionKey | None) -> bool:
        """No request of the session (None: of any) runs or still has chunks to save."""
        if session is None:
            return not self._req_status
        return all(state.req.session_id != session for state in self._req_status.values())

    def poll_foresight(self) -> None:
        """Plan what is due: the engine may be idle, and does not step by itself."""
        self.manager.poll()
        self._poll_foresight(time.monotonic())

    def _poll_foresight(self, now: float) -> None:
        loads = self.loads
        self.foresight.poll(now, loads_wait=loads.waited_for, reads=loads.reads_left)
        self._ssd_outlook.poll(now)

    # --- device fills ----------------------------------------------------------------------------

    @property
    def can_fill(self) -> bool:
        """Whether a chunk is one block of the only group: then its name is its block's name."""
        return self.config.blocks_per_chunk == 1 and len(self.config.kv_group_configs) == 1

    def keys_of_running(self) -> set[ChunkKey]:
        """Chunks that running requests use or are saving."""
        return {
            ChunkKey(key)
            for state in self._req_status.values()
            for key in state.req_context._offload_key_positions
        }

    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None:
        """Fill device blocks that no request asked for, beginning with the next step."""
        # Saves that still read these blocks are finished before anything is written to them.
        self._current_batch_allocated_block_ids.update(blocks)
        learn = self.choice.fill_opened(stream)

        def ended(stream: LoadStream, now: float) -> None:
            learn(stream, now)
            self._has_filled = True

        self.loads.open(FILL, stream, ended, time.monotonic())

    # --- loads -----------------------------------------------------------------------------------

    def _on_load_ended(
        self, job_id: int, state: RequestOffloadState, stream: LoadStream, now: float
    ) -> None:
        """A request's load is over, whole or not."""
        self.choice.ended(stream, now)
        self._load_ends.ended(state, stream, now)
        completed = OffloadingWorkerMetadata(completed_jobs={job_id: self.config.num_workers})
        super().update_connector_output(KVConnectorOutput(kv_connector_worker_meta=completed))

    def _is_loading(self, request_id: str) -> bool:
        return self.loads.is_open(request_id) or self._load_ends.is_ending(request_id)

    # --- stores ----------------------------------------------------------------------------------

    def _calc_num_offloadable_tokens(
        self, req_status: RequestOffloadState, num_computed_tokens: int
    ) -> int:
        """At most a window's worth of new chunks a step: what does not fit DRAM at once waits."""
        tokens: int = super()._calc_num_offloadable_tokens(req_status, num_computed_tokens)
        stored = min(group.next_stored_chunk_idx for group in req_status.group_states)
        room = self.manager.store_room() // len(req_status.group_states)
        limit = (stored + min(self._store_window(req_status), room)) * self.tokens_per_chunk
        return min(tokens, limit)

    def _build_store_jobs(self, scheduler_output: Any) -> dict[int, TransferJob]:
        """vLLM's, over draining requests too."""
        finished = set(scheduler_output.finished_req_ids) | self._drains.requests
        step = dataclasses.replace(scheduler_output, finished_req_ids=finished)
        jobs: dict[int, TransferJob] = super()._build_store_jobs(step)
        return jobs

    def _store_window(self, state: RequestOffloadState) -> int:
        groups = len(state.group_states)
        return max(1, self.manager.capacity // 4 // groups)

    def _end_drains(self, now: float) -> set[str]:
        """Requests that vLLM may forget in this step: those that are done saving."""
        ended = self._drains.take_ended(now)
        if self.manager.ssd is not None:
            self.manager.ssd.count_dropped(sum(ended.values()))
        self._orders.stores_ended.update(ended)
        return set(ended)

    # --- sessions and operations -----------------------------------------------------------------

    def _admit(self, request: Any, state: RequestOffloadState, record: RequestRecord) -> None:
        """Decide what of the turn is written to SSD."""
        if record.session is None:
            return
        prompt = [(key, end) for key, end in chain_of(state) if end <= request.num_prompt_tokens]
        self.admittance.begin(
            record.session,
            Prompt([key for key, _ in prompt], [end for _, end in prompt]),
            record.held or (),
            state.req_context,
        )

    def _note_public(self, request: Any, state: RequestOffloadState) -> None:
        """Chunks of a public prefix are everybody's, whatever became of who used them before."""
        salt = PublicSalt.parse(request.cache_salt)
        if salt is None:
            return
        keys = {key for key, end in chain_of(state) if end <= salt.tokens} - self.manager.public
        self.manager.public.update(keys)
        self.sessions.standings.update(list(keys))
