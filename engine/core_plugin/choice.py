"""Load or compute, where it is decided: the arbiter (``cache_tiers.arbiter``) in the scheduler.

Scheduler thread only. A request that is asked about gets as much as is worth loading; its load is
watched, and cut where it stands when it turns out slower than computing the rest. What it all costs
is learned from what happens anyway: steps, copies, reads and whole loads. Where the disk was found
to be slow nothing is loaded from it, so nothing would be learned; then a few chunks of what is
computed are read on the side now and then, and nobody waits for them.

A load moves on between the engine's steps, and these are long while others' prompts are computed.
Computing would wait for them just so. What a load has cost is therefore counted step by step: of
one that computes for others no more than a step takes without prompts, or than the disk was at it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from cache_tiers.arbiter import Bargain, Hit, Run, choose
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.pace import Pace
from cache_tiers.ssd.config import READ_THREADS
from cache_tiers.ssd.fetcher import MERGED_BYTES
from cache_tiers.types import ChunkKey, MissReason, Tier
from engine.core_plugin.load_stream import LoadStream
from engine.core_plugin.loads import Loads, OnEnd
from engine.core_plugin.manager import CHUNKS_PER_READ, TierManager
from engine.core_plugin.reports import RequestRecord
from engine.core_plugin.ssd_tier import READ_DEADLINE_S
from engine.core_plugin.steps import Piece, Prefill, Steps
from engine.core_plugin.vllm_compat import OffloadingWorkerMetadata, RequestOffloadState

TRY_EVERY_S = 5.0
"""At most so often a few chunks of a disk that was found slow are read, to see whether it is."""
_READ_S = 0.02
"""A read brings no more chunks than come in this time, where that is more than one: so what a slow
disk gives is at hand chunk by chunk."""


@dataclass(slots=True, eq=False)
class _Timed:
    """A load under way."""

    stream: LoadStream
    since: float
    spent_s: float = field(default=0.0, kw_only=True)
    """What it has cost. Steps in which it was held back for others are theirs."""


@dataclass(slots=True, eq=False)
class _Watched(_Timed):
    """A load that a request waits for."""

    bargain: Bargain
    first: int
    """Items of the stream that were there by then."""

    @property
    def arrived(self) -> int:
        """Chunks since then; of several groups' items, which come group by group, the share."""
        items = max(1, len(self.stream.items) - self.first)
        return (self.stream.at_hand - self.first) * self.bargain.chunks // items


class Choice:
    """See the module's docstring."""

    def __init__(
        self,
        manager: TierManager,
        loads: Loads,
        costs: LearnedCosts,
        *,
        chunk_tokens: int,
        groups: int,
        workers: int,
        pace: Pace | None = None,
    ) -> None:
        """``groups`` of KV, each with a chunk for every ``chunk_tokens`` tokens; ``workers`` copy
        a part of each. ``pace``: of loads beside others' answers; None for as fast as they go."""
        self._manager = manager
        self._costs = costs
        self._chunk_tokens = chunk_tokens
        self._groups = groups
        self._workers = workers
        self._pace = pace or Pace(None)
        self._loads = loads
        self._decodes_since: float | None = None
        """Since when a step that only decodes runs."""
        self._steps = Steps(costs.prefilled)
        self._sequences = 0
        """What the step that runs computes anything for."""
        self._ticked_at = 0.0
        self._disk_busy_s = 0.0
        self._agreed: dict[str, Bargain] = {}
        self._watched: list[_Watched] = []
        self._fills: list[_Timed] = []
        self._try_at = 0.0
        loads.reads_ahead = self._reads_ahead
        loads.allowance = self._allowance
        manager.chunks_per_read = self._chunks_per_read

    # --- a request is asked about ----------------------------------------------------------------

    def judge(self, keys: Sequence[ChunkKey], start: int, prompt: int) -> Bargain:
        """How many of ``keys``, chunks in prefix order below the device, are worth loading, for a
        prompt of so many tokens of which those before ``start`` are on the device."""
        return choose(self._hit(keys, start, prompt), self._costs)

    def worth(self, chain: Sequence[ChunkKey], there: int) -> int:
        """Of a session's chain, up to where it is worth bringing up before its prompt is known;
        the first ``there`` chunks are there."""
        behind = len(chain) * self._chunk_tokens + 1
        bargain = self.judge(chain[there:], there * self._chunk_tokens, behind)
        return there + bargain.chunks

    def asked(
        self, state: RequestOffloadState, tokens: int, record: RequestRecord | None, now: float
    ) -> int:
        """Of the ``tokens`` found below the device for a request, how many to load. May be asked
        again for one that found no room: every step, and what was agreed to holds for as long as
        the same is found."""
        first = state.num_locally_computed_tokens // self._chunk_tokens
        behind = -(-(state.num_locally_computed_tokens + tokens) // self._chunk_tokens)
        keys = [ChunkKey(key) for key in state.group_states[0].offload_keys[first:behind]]
        hit = self._hit(keys, first * self._chunk_tokens, state.req.num_tokens)
        bargain = self._agreed.get(state.req.request_id)
        if bargain is None or (bargain.hit.start, bargain.hit.runs) != (hit.start, hit.runs):
            bargain = choose(hit, self._costs)
            self._agreed[state.req.request_id] = bargain
        left = keys[bargain.chunks :]
        if record is not None:
            record.failure = MissReason.RECOMPUTE_CHEAPER if left else None
        if not left:
            return tokens
        self._try(left, now)
        end = (first + bargain.chunks) * self._chunk_tokens
        return max(0, end - state.num_locally_computed_tokens)

    def awaits(
        self, state: RequestOffloadState, fills: Iterable[LoadStream], now: float
    ) -> list[LoadStream]:
        """Those of ``fills`` that bring chunks of a request to the device. It waits for them, as
        for a load of its own."""
        state.update_offload_keys()
        keys = set(state.group_states[0].offload_keys)
        # Nothing is left to fill in where all is on the device, or where no block was idle.
        awaited = [stream for stream in fills if stream.items and stream.items[0].key in keys]
        for stream in awaited:
            if not stream.ended and all(w.stream is not stream for w in self._watched):
                at = stream.at_hand
                rest = [item.key for item in stream.items[at:]]
                start = stream.items[0].first_block + at
                bargain = self.judge(rest, start * self._chunk_tokens, state.req.num_tokens)
                if bargain.chunks < len(rest):
                    stream.cut(MissReason.RECOMPUTE_CHEAPER, keep=at + bargain.chunks)
                self._watched.append(_Watched(stream, now, bargain, at))
        return awaited

    # --- its load runs ---------------------------------------------------------------------------

    def opened(self, request_id: str, stream: LoadStream, now: float) -> None:
        """The load of a request that was asked about has begun."""
        self._watched.append(_Watched(stream, now, self._agreed.pop(request_id), 0))

    def ended(self, stream: LoadStream, now: float) -> None:
        """It is over, whole or not."""
        self._tick(now)
        for watched in [w for w in self._watched if w.stream is stream]:
            self._watched.remove(watched)
            hit = watched.bargain.hit
            if stream.failure is None:
                dram, ssd = hit.upto(watched.bargain.chunks)
                self._costs.loaded(dram, ssd, watched.spent_s, busy=hit.busy)

    def fill_opened(self, stream: LoadStream) -> OnEnd:
        """A fill that no request has asked for begins; to be called at its end. What it takes is
        learned, as of a load."""
        in_dram = sum(self._manager.dram.has(item.key) for item in stream.items)
        timed = _Timed(stream, stream.opened_at)
        self._fills.append(timed)
        on_ssd, busy = len(stream.items) - in_dram, self._busy

        def ended(stream: LoadStream, now: float) -> None:
            self._tick(now)
            self._fills.remove(timed)
            if stream.failure is None and busy == self._busy:
                self._costs.loaded(in_dram, on_ssd, timed.spent_s, busy=busy)

        return ended

    def forget(self, request_id: str) -> None:
        """The request is over."""
        self._agreed.pop(request_id, None)

    # --- every step ------------------------------------------------------------------------------

    def begin_step(self, step: Any, states: "dict[str, RequestOffloadState]", now: float) -> None:
        """vLLM's scheduler output is handed over: learn, and cut what has become too slow. After
        ``manager.poll``, before ``loads.advance``."""
        self._look(states, now)
        self._tick(now)
        moved, under_way = self._loads.take_moved()
        if self._decodes_since is not None:
            self._pace.stepped(
                now - self._decodes_since, moved, sequences=self._sequences, loads=under_way
            )
        self._sequences = len(step.num_scheduled_tokens)
        pieces = dict(_pieces(step, states))
        self._decodes_since = now if self._busy and not pieces else None
        self._steps.begin(pieces, computes=self._busy, now=now)
        for watched in list(self._watched):
            stream = watched.stream
            if stream.ended:
                self._watched.remove(watched)
            elif not watched.bargain.holds(watched.arrived, watched.spent_s):
                stream.cut(MissReason.RECOMPUTE_CHEAPER)

    def end_step(
        self,
        meta: OffloadingWorkerMetadata,
        states: "dict[str, RequestOffloadState]",
        now: float,
    ) -> None:
        """Workers have said what they did."""
        self._look(states, now)
        copied = meta.transfer_stats.load
        self._costs.tiers[Tier.DRAM].add(
            copied.bytes / self._manager.chunk_bytes, copied.time / self._workers
        )

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        """Whether the step that runs computes anything."""
        return self._sequences > 0

    def _hit(self, keys: Sequence[ChunkKey], start: int, prompt: int) -> Hit:
        tiers = (Tier.DRAM if self._manager.dram.has(key) else Tier.SSD for key in keys)
        return Hit(
            start=start,
            prompt=prompt,
            chunk_tokens=self._chunk_tokens,
            runs=[Run(tier, sum(1 for _ in run)) for tier, run in groupby(tiers)],
            together=self._together(),
            parts=self._groups,
            divisible=self._groups == 1,
            busy=self._busy,
        )

    def _look(self, states: "dict[str, RequestOffloadState]", now: float) -> None:
        def prefill(request_id: str) -> Prefill:
            state = states.get(request_id)
            if state is not None and state.req.num_output_tokens:
                return Prefill.OVER
            running = state is not None and not state.req.is_finished()
            return Prefill.RUNS if running else Prefill.GONE

        self._steps.look(prefill, now)

    def _tick(self, now: float) -> None:
        """Look at the disk, and charge loads with the time since the last tick."""
        passed, self._ticked_at = now - self._ticked_at, now
        disk_s = 0.0
        if self._manager.ssd is not None:
            stats = self._manager.ssd.store.stats()
            under_way = self._manager.reading(self._together())
            self._costs.tiers[Tier.SSD].look(stats.chunks_read, stats.read_busy_s, under_way)
            disk_s = stats.read_busy_s - self._disk_busy_s
            self._disk_busy_s = stats.read_busy_s
        if self._busy:
            passed = min(passed, max(self._steps.step_s, disk_s))
        for timed in (*self._watched, *self._fills):
            if not timed.stream.held:
                timed.spent_s += min(passed, now - timed.since)

    def _allowance(self) -> float:
        """Chunks that loads may move in the step that runs."""
        compute_s = self._costs.compute_s(0, self._chunk_tokens)
        return self._pace.allowance(decodes=self._busy, compute_s=compute_s)

    def _reads_ahead(self) -> int:
        """Chunks that loads may have under way from SSD: as many as come within half of a read's
        deadline, so that a slow disk is late for none."""
        return self._come_within(READ_DEADLINE_S / 2)

    def _together(self) -> int:
        """Chunks that the disk brings at a time: a transfer for each of the store's threads, and
        neighbours of one read are one transfer."""
        merged = max(1, MERGED_BYTES // self._manager.chunk_bytes)
        return min(READ_THREADS * min(self._chunks_per_read(), merged), self._reads_ahead())

    def _chunks_per_read(self) -> int:
        return min(CHUNKS_PER_READ, self._come_within(_READ_S))

    def _come_within(self, seconds: float) -> int:
        """Chunks that SSD gives in that time, at least one."""
        return max(1, int(seconds / max(self._costs.tiers[Tier.SSD].chunk_s, 1e-6)))

    def _try(self, keys: Sequence[ChunkKey], now: float) -> None:
        """Read some that are on SSD, so that its rate is known."""
        if now < self._try_at:
            return
        self._try_at = now + TRY_EVERY_S
        away = [key for key in keys if not self._manager.dram.has_or_awaits(key)]
        self._manager.bring(away[:CHUNKS_PER_READ], _Nobody(), now, break_pins=False)


class _Nobody:
    """A ``ReadWaiter`` that waits for nothing: what comes is there unpinned."""

    def wants(self, key: ChunkKey) -> bool:
        return False

    def on_reading(self, keys: Iterable[ChunkKey]) -> None:
        pass

    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None:
        pass

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        pass


def _pieces(step: Any, states: "dict[str, RequestOffloadState]") -> Iterable[tuple[str, Piece]]:
    """Of prompts, that a step of vLLM's computes."""
    starts = {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
    known = step.scheduled_cached_reqs
    starts.update(zip(known.req_ids, known.num_computed_tokens, strict=True))
    for request_id, tokens in step.num_scheduled_tokens.items():
        state, start = states.get(request_id), starts[request_id]
        if state is None or state.req.num_output_tokens:
            continue
        if start < state.req.num_prompt_tokens:
            yield request_id, (start, start + tokens)
