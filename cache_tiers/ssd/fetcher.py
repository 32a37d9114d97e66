"""Reading chunks: merged transfers straight into the caller's buffers, checked and opened there."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cache_tiers.ssd import exponents
from cache_tiers.ssd.aligned import BufferPool, is_aligned
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.extent import PAGE_BYTES, Extent
from cache_tiers.ssd.io_pool import IoPool
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.reading import Reading
from cache_tiers.ssd.runs import Run, merge
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.space import Space
from cache_tiers.ssd.tally import Tally
from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey

MERGED_BYTES = 8 * 2**20
"""Neighbours are merged into transfers of this size; beyond it they gain nothing (measured)."""
_PACED_S = 0.125
"""Where the rate is limited, what a transfer may take of it: chunks come one by one, not late."""
_SCRATCH_BUFFERS = 3
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ESTALE})
"""Errors that say that what is on the medium is not what this process left there."""


class ReadEvents(Protocol):
    """What a fetcher tells its store, on any thread."""

    def on_corrupt(self, key: ChunkKey, place: Extent) -> None: ...
    def on_segment_gone(self, segment: Segment) -> None: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One chunk of a transfer."""

    position: int
    """In the request."""
    key: ChunkKey
    place: Extent
    view: memoryview


class Fetcher:
    """Any thread."""

    def __init__(
        self,
        space: Space,
        codec: Codec,
        pool: IoPool,
        events: ReadEvents,
        tally: Tally,
        pace: Pace,
        clock: Callable[[], float],
        hangs_after_s: float,
    ) -> None:
        """``clock`` in seconds, the pool's."""
        self._space = space
        self._codec = codec
        self._pool = pool
        self._events = events
        self._tally = tally
        self._pace = pace
        self._longest = int(min(MERGED_BYTES, pace.bytes_per_s * _PACED_S))
        self.direct = False
        """Whether the filesystem does direct I/O: set once, before the first read."""
        self._clock = clock
        self._hangs_after_s = hangs_after_s
        self._late = False
        """A chunk came too late, and since then there was always a transfer under way."""
        size = max(MERGED_BYTES, codec.most_bytes)
        self._scratch = BufferPool(size, _SCRATCH_BUFFERS)
        """Where compressed chunks are read to; few, so that its memory is bounded."""

    def hangs(self) -> bool:
        """Whether the disk does not answer: a transfer is under way that should have ended long
        ago. Says so once. Memory alone."""
        if not self._late:
            return False
        oldest = self._pool.oldest_read_s()
        self._late = oldest > 0
        if oldest <= self._hangs_after_s:
            return False
        self._tally.reads.failed(TimeoutError("it does not answer"))
        return True

    def read(
        self,
        keys: Sequence[ChunkKey],
        places: Sequence[Extent | None],
        views: Sequence[memoryview],
        deadline_s: float,
    ) -> Reading:
        """Begin to read what has a place; the rest is missing."""
        runs = merge(places, self._longest)
        outcomes = [None if place else ReadOutcome.MISSING for place in places]
        now = self._clock()
        reading = Reading(outcomes, len(runs), now + deadline_s, self._clock, self._on_late)
        for run in runs:
            wanted = []
            for position in run.positions:
                place = places[position]
                assert place is not None
                wanted.append(_Wanted(position, keys[position], place, views[position]))
            self._tally.transfer_asked()
            try:
                transfer = self._pool.read(partial(self._transfer, reading, run, wanted))
            except RuntimeError:  # the store is closing
                self._tally.transfer_over()
                reading.end_run([(chunk.position, ReadOutcome.MISSING) for chunk in wanted])
            else:
                transfer.add_done_callback(lambda _: self._tally.transfer_over())
                reading.expect(transfer)
        return reading

    def _on_late(self, chunks: int) -> None:
        self._tally.late_read(chunks)
        self._late = True
        self.hangs()

    def _transfer(self, reading: Reading, run: Run, wanted: Sequence[_Wanted]) -> None:
        outcomes: list[tuple[int, ReadOutcome]] = []
        try:
            size = run.pages * PAGE_BYTES
            if reading.begin_run() and self._pace.wait(size, reading.deadline):
                outcomes = self._fetch(run, wanted)
        finally:
            self._tally.brought(sum(outcome is ReadOutcome.OK for _, outcome in outcomes))
            reading.end_run(outcomes)

    def _fetch(self, run: Run, wanted: Sequence[_Wanted]) -> list[tuple[int, ReadOutcome]]:
        segment = self._space.find(run.segment)
        if segment is None:
            return [(chunk.position, ReadOutcome.MISSING) for chunk in wanted]
        try:
            if all(chunk.place.length == self._codec.chunk_bytes for chunk in wanted):
                return self._fetch_whole(segment, run, wanted)
            return self._fetch_compressed(segment, run, wanted)
        except OSError as error:
            if error.errno in GONE:
                self._events.on_segment_gone(segment)
                return [(chunk.position, ReadOutcome.MISSING) for chunk in wanted]
            self._tally.failed_read(error, len(wanted))
            return [(chunk.position, ReadOutcome.FAILED) for chunk in wanted]

    def _fetch_whole(
        self, segment: Segment, run: Run, wanted: Sequence[_Wanted]
    ) -> list[tuple[int, ReadOutcome]]:
        """Straight into the caller's buffers."""
        gap = -self._codec.chunk_bytes % PAGE_BYTES
        direct = self.direct and not gap and all(is_aligned(chunk.view) for chunk in wanted)
        targets = [chunk.view for chunk in wanted]
        if gap:
            rest = memoryview(bytearray(gap))
            targets = [part for view in targets for part in (view, rest)]
        size = self._read(segment, run.page, targets, direct=direct)
        return [
            (chunk.position, self._checked(segment, chunk, chunk.view, self._end(run, chunk), size))
            for chunk in wanted
        ]

    def _fetch_compressed(
        self, segment: Segment, run: Run, wanted: Sequence[_Wanted]
    ) -> list[tuple[int, ReadOutcome]]:
        """Through memory of our own."""
        outcomes = []
        buffer = self._scratch.get()
        try:
            target = buffer[: run.pages * PAGE_BYTES]
            size = self._read(segment, run.page, [target], direct=self.direct)
            for chunk in wanted:
                end = self._end(run, chunk)
                stored = target[end - chunk.place.length : end]
                outcome = self._checked(segment, chunk, stored, end, size)
                if outcome is ReadOutcome.OK and not self._unpack(stored, chunk.view):
                    outcome = self._corrupt(chunk)
                outcomes.append((chunk.position, outcome))
        finally:
            self._scratch.put(buffer)
        return outcomes

    def _read(self, segment: Segment, page: int, targets: list[memoryview], *, direct: bool) -> int:
        try:
            size = segment.read(page, targets, direct=direct)
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            # The end of a file that was cut short is not on a page: direct I/O stops at it.
            size = segment.read(page, targets, direct=False)
        self._tally.read(size)
        return size

    @staticmethod
    def _end(run: Run, chunk: _Wanted) -> int:
        """Where the chunk's bytes end, counted from the transfer's beginning."""
        return (chunk.place.page - run.page) * PAGE_BYTES + chunk.place.length

    def _checked(
        self, segment: Segment, chunk: _Wanted, stored: memoryview, end: int, size: int
    ) -> ReadOutcome:
        if end <= size and self._codec.open(segment.tenant, chunk.key, chunk.place, stored):
            return ReadOutcome.OK
        if not self._codec.can_open(chunk.place.seal):
            # The key was destroyed after the chunk was looked up.
            return ReadOutcome.MISSING
        return self._corrupt(chunk)

    def _corrupt(self, chunk: _Wanted) -> ReadOutcome:
        self._events.on_corrupt(chunk.key, chunk.place)
        return ReadOutcome.CORRUPT

    def _unpack(self, stored: memoryview, view: memoryview) -> bool:
        if stored.nbytes == view.nbytes:
            np.copyto(np.frombuffer(view, np.uint8), np.frombuffer(stored, np.uint8))
            return True
        return exponents.decompress(stored, view)
