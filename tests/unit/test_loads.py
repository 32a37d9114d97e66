"""Loads in progress: what is read, and in which order, and what the workers copy."""

from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.loads import FILL, Loads
from engine.core_plugin.read_waiter import ReadWaiter
from engine.core_plugin.vllm_compat import CPULoadStoreSpec


def key(number: int) -> ChunkKey:
    return ChunkKey(b"%d" % number)


class Tiers:
    """In the place of the manager: reads end when they are told to."""

    capacity = 20

    def __init__(self) -> None:
        self.dram: Any = self
        self.origins: Any = self
        self.here: set[ChunkKey] = set()
        self.reading: dict[ChunkKey, ReadWaiter] = {}
        self.pinned: list[ChunkKey] = []

    def has(self, chunk: ChunkKey) -> bool:
        return chunk in self.here

    def bring(self, keys: Sequence[ChunkKey], waiter: ReadWaiter, now: float) -> None:
        here = [each for each in keys if each in self.here]
        self.pinned += here
        waiter.on_ready(here, now)
        away = [each for each in keys if each not in self.here and each not in self.reading]
        self.reading.update(dict.fromkeys(away, waiter))
        waiter.on_reading(away)

    def read(self, *numbers: int) -> None:
        for each in map(key, numbers):
            self.here.add(each)
            self.pinned.append(each)
            self.reading.pop(each).on_ready([each], 0.0)

    def rows(self, keys: Sequence[ChunkKey]) -> CPULoadStoreSpec:
        return CPULoadStoreSpec([int(each) for each in keys])

    def unpin(self, keys: Collection[ChunkKey]) -> None:
        for each in keys:
            self.pinned.remove(each)

    def mark_used(self, keys: Collection[ChunkKey]) -> None: ...

    def forget_waiter(self, waiter: ReadWaiter) -> None:
        self.reading = {k: w for k, w in self.reading.items() if w is not waiter}


class Bench:
    def __init__(self) -> None:
        self.tiers = Tiers()
        tiers: Any = self.tiers
        numbers = count(1)
        self.loads = Loads(tiers, workers=1, groups=1, new_job_id=lambda: next(numbers))
        self.ended: list[LoadStream] = []

    def open(self, numbers: range, request: str = "r", patience_s: float = 5.0) -> LoadStream:
        items = [LoadItem(key(n), 0, n, (100 + n,)) for n in numbers]
        stream = LoadStream(items, now=0.0, patience_s=patience_s)
        self.loads.open(request, stream, lambda over, _: self.ended.append(over), 0.0)
        return stream

    def finish(self, jobs: Iterable[int], now: float = 0.0) -> None:
        """The workers have copied these parts."""
        self.loads.take_completed(dict.fromkeys(jobs, 1), now)

    def reading(self) -> list[int]:
        return [int(each) for each in self.tiers.reading]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_reading_begins_at_once(bench: Bench) -> None:
    bench.open(range(3))
    assert bench.reading() == [0, 1, 2]


def test_what_is_ready_is_copied_and_let_go(bench: Bench) -> None:
    stream = bench.open(range(3))
    bench.tiers.read(0, 1)
    ((job_id, job),) = bench.loads.advance(0.0).items()
    assert job.dst_spec.block_ids.tolist() == [100, 101]
    assert np.array_equal(job.src_spec.block_ids, [0, 1])
    bench.loads.take_completed({job_id: 1}, 0.0)
    assert bench.tiers.pinned == []
    bench.tiers.read(2)
    ((job_id, _),) = bench.loads.advance(0.0).items()
    done = {job_id: 1, 999: 1}
    bench.loads.take_completed(done, 0.0)
    assert done == {999: 1}
    assert bench.ended == [stream]
    assert not bench.loads.is_open("r")


def test_no_more_is_read_than_half_of_dram_holds(bench: Bench) -> None:
    bench.open(range(15))
    assert bench.reading() == list(range(10))
    bench.tiers.read(0)
    bench.loads.advance(0.0)
    assert len(bench.reading()) == 9, "the first is still in DRAM, being copied"


def test_no_more_is_read_than_the_disk_gives_in_time(bench: Bench) -> None:
    bench.loads.reads_ahead = lambda: 2
    bench.open(range(5))
    bench.open(range(10, 15), "other")
    assert bench.reading() == [0, 1]
    bench.tiers.read(0)
    bench.loads.advance(0.0)
    assert bench.reading() == [1, 2]
    assert bench.loads.reads_left == 0


def test_a_fill_reads_nothing_while_a_request_waits(bench: Bench) -> None:
    bench.open(range(3))
    bench.open(range(10, 13), FILL)
    assert bench.reading() == [0, 1, 2]
    bench.loads.await_fills()
    bench.loads.advance(0.0)
    assert bench.reading() == [0, 1, 2, 10, 11, 12]


def test_a_fill_that_stands_aside_loses_no_patience(bench: Bench) -> None:
    bench.open(range(3), patience_s=60.0)
    fill = bench.open(range(10, 13), FILL)
    for now in (6.0, 12.0):
        bench.loads.advance(now)
        assert fill.failure is None
        assert fill.held
    bench.tiers.read(0, 1, 2)
    bench.finish(bench.loads.advance(13.0), 13.0)
    bench.loads.advance(14.0)
    assert bench.reading() == [10, 11, 12]
    assert not fill.held
    bench.loads.advance(19.1)
    assert fill.failure is MissReason.IO_TIMEOUT, "it was its turn, and nothing came"


def test_a_fill_whose_reads_are_under_way_is_not_held(bench: Bench) -> None:
    fill = bench.open(range(10, 13), FILL)
    bench.open(range(3))
    bench.loads.advance(0.0)
    assert not fill.held, "it waits for the disk"
    bench.tiers.read(10)
    bench.loads.advance(0.0)
    assert not fill.held, "for a copy too"


def test_one_that_fails_lets_go_of_what_it_held(bench: Bench) -> None:
    bench.tiers.here.add(key(2))
    stream = bench.open(range(3))
    stream.on_failed(key(0), MissReason.CORRUPT_CHUNK)
    assert bench.loads.advance(0.0) == {}
    assert bench.ended == [stream]
    assert bench.tiers.pinned == []
    assert bench.reading() == []


def test_one_that_nobody_waits_for_is_given_up(bench: Bench) -> None:
    stream = bench.open(range(3))
    bench.loads.give_up("other")
    assert stream.failure is None
    bench.loads.give_up("r")
    assert stream.failure is MissReason.IO_TIMEOUT
