"""Streams in progress: what is read, what the workers copy, when a load is over.

Scheduler thread only. A stream's ready chunks go to the workers in *parts*, each a run of
contiguous chunks; a part is done when every worker has copied it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.manager import CHUNKS_PER_READ, TierManager
from engine.core_plugin.vllm_compat import CPULoadStoreSpec, GPULoadStoreSpec, TransferJob

FILL = "valet-fill"
"""In the place of a request's id, for loads that no request asked for."""
LOAD_PATIENCE_S = 5.0
"""A load without progress for this long is given up and recomputed."""

AHEAD_STEPS = 2
"""Reads are so many steps ahead of copies, where these are limited."""

OnEnd = Callable[[LoadStream, float], None]
"""Called once, with the stream and the time, when a load is over, whole or not."""


@dataclass(slots=True, eq=False)
class Load:
    """One running load."""

    request_id: str
    stream: LoadStream
    on_end: OnEnd
    waited_for: bool
    """Whether a request waits for it."""


@dataclass(slots=True)
class Part:
    """One copy of a run of chunks, carried out by every worker."""

    load: Load
    keys: list[ChunkKey]
    workers_left: int


class Loads:
    """All running loads of the engine."""

    def __init__(
        self, manager: TierManager, *, workers: int, groups: int, new_job_id: Callable[[], int]
    ) -> None:
        self._manager = manager
        self._workers = workers
        self._groups = groups
        self._new_job_id = new_job_id
        # Half of DRAM: stores and other streams go on beside a stream.
        self._window = max(1, manager.capacity // 2)
        self.reads_ahead: Callable[[], int] = lambda: manager.capacity
        """Chunks that loads may have on their way from SSD at a time."""
        self.allowance: Callable[[], float] = lambda: math.inf
        """Chunks that may be copied in a step; asked once in each."""
        self._allowed = math.inf
        """In the latest step."""
        self._moved = 0
        self._under_way = False
        """Whether any load was, since ``take_moved`` was last called."""
        self._loads: list[Load] = []
        self._parts: dict[int, Part] = {}

    def open(self, request_id: str, stream: LoadStream, on_end: OnEnd, now: float) -> None:
        """Begin a load. What it needs of DRAM is pinned, and what fits of SSD read, at once."""
        load = Load(request_id, stream, on_end, waited_for=request_id != FILL)
        self._loads.append(load)
        self._under_way = True
        here = [item.key for item in stream.items if self._manager.dram.has(item.key)]
        self._manager.bring(here, stream, now)
        self._read(load, now)
        stream.held = self._stands_aside(load)

    def is_open(self, request_id: str) -> bool:
        """Whether a load of the request runs."""
        return bool(self.streams(request_id))

    @property
    def waited_for(self) -> bool:
        """Whether a request waits for a load."""
        return any(load.waited_for for load in self._loads)

    @property
    def reads_left(self) -> int:
        """Chunks that may be on their way from SSD for others than loads."""
        return self.reads_ahead() - sum(load.stream.reading for load in self._loads)

    def await_fills(self) -> None:
        """A request waits for what is being filled in."""
        for load in self._loads:
            load.waited_for = True

    def streams(self, request_id: str) -> list[LoadStream]:
        """Of the loads that run for it."""
        return [load.stream for load in self._loads if load.request_id == request_id]

    def give_up(self, request_id: str) -> None:
        """Nobody waits for the request any more: stop its load where it stands."""
        for stream in self.streams(request_id):
            stream.give_up(MissReason.IO_TIMEOUT)

    def advance(self, now: float) -> dict[int, TransferJob]:
        """Read what fits the windows, end what has ended; the parts to copy, by job number."""
        jobs: dict[int, TransferJob] = {}
        allowed = self._allowed = self.allowance()
        for load in sorted(self._loads, key=lambda load: not load.waited_for):
            load.stream.check_patience(now)
            self._read(load, now)
            while run := load.stream.take_run(allowed):
                allowed -= len(run)
                self._moved += len(run)
                job_id = self._new_job_id()
                jobs[job_id] = self._part(job_id, load, run)
            held = allowed < 1 and load.stream.ready > 0
            load.stream.held = held or self._stands_aside(load)
            self._end_if_over(load, now)
        return jobs

    def take_moved(self) -> tuple[int, bool]:
        """Chunks that were given to be copied since the last call, and whether any load was under
        way."""
        moved, self._moved = self._moved, 0
        under_way, self._under_way = self._under_way, bool(self._loads)
        return moved, under_way

    def take_completed(self, completed: dict[int, int], now: float) -> None:
        """Takes out of ``completed`` (workers done, by job number) the parts of loads."""
        for job_id in [job_id for job_id in completed if job_id in self._parts]:
            part = self._parts[job_id]
            part.workers_left -= completed.pop(job_id)
            if part.workers_left > 0:
                continue
            del self._parts[job_id]
            self._manager.unpin(part.keys)
            self._manager.origins.mark_used(part.keys)
            part.load.stream.on_copied(part.keys, now)
            self._end_if_over(part.load, now)

    def _read(self, load: Load, now: float) -> None:
        """What the load's window and the disk have room for, and no further ahead than a few steps
        copy; nothing while another is waited for and this one is not."""
        if self.waited_for and not load.waited_for:
            return
        stream = load.stream
        window = min(self._window, CHUNKS_PER_READ + AHEAD_STEPS * self._allowed)
        wanted = stream.to_read(int(min(window - stream.in_dram(), self.reads_left)))
        if wanted:
            self._manager.bring(wanted, stream, now)

    def _stands_aside(self, load: Load) -> bool:
        """Whether all that is left of it may not be read now, because another is waited for."""
        return self.waited_for and not load.waited_for and not load.stream.in_dram()

    def _part(self, job_id: int, load: Load, run: Sequence[LoadItem]) -> TransferJob:
        keys = [item.key for item in run]
        self._parts[job_id] = Part(load, keys, self._workers)
        return TransferJob(
            req_id=load.request_id,
            src_spec=CPULoadStoreSpec(self._manager.rows(keys).block_ids.tolist()),
            dst_spec=destination(run, self._groups),
        )

    def _end_if_over(self, load: Load, now: float) -> None:
        if load.stream.ended and load in self._loads:
            self._loads.remove(load)
            self._manager.forget_waiter(load.stream)
            self._manager.unpin(load.stream.pinned_leftovers())
            load.on_end(load.stream, now)


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
