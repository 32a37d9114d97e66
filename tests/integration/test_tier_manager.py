"""DRAM and SSD together, in one process and without an engine: real region, real store."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.types import ChunkKey, MissReason, Standing, Tier
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.manager import TierManager
from engine.core_plugin.ssd_tier import SsdTier
from engine.core_plugin.vllm_compat import (
    LookupResult,
    OffloadKey,
    ReqContext,
    SharedOffloadRegion,
)
from tests.contract.store_faults import FaultyFiles

CHUNK = 4096
ROWS = 8


def key(n: int) -> ChunkKey:
    return ChunkKey(n.to_bytes(32, "big") + bytes(4))


def content(n: int) -> bytes:
    return bytes([n % 251]) * CHUNK


class Tiers:
    """A manager on ``folder``, and the two sides that vLLM would play."""

    def __init__(self, folder: Path, patience_s: float = 30.0) -> None:
        """``patience_s``: with a disk that does not answer."""
        self._patience_s = patience_s
        self.region = SharedOffloadRegion(
            f"test-{os.getpid()}-{id(self)}", ROWS, None, CHUNK, CHUNK
        )
        Path(self.region.mmap_path).unlink()
        self.region._creator = False
        self.dram = DramTier(num_chunks=ROWS, mmap_region=self.region)
        view = self.dram.get_kv_memoryview()
        self.files = FaultyFiles()
        installation = Installation(
            root=folder, bytes_limit=1 << 20, master_key=f"file:{folder.parent / 'master.key'}"
        )
        self.ssd = SsdTier(
            None,
            view,
            "ssd",
            store=open_store(installation, "f" * 32, CHUNK, files=self.files),
            manifests=Manifests.open(installation.manifests("f" * 32)),
            read_deadline_s=patience_s,
        )
        self.manager = TierManager(self.dram, self.ssd, pending_patience_s=patience_s)
        self.rows = np.asarray(view)

    def store(self, numbers: Sequence[int]) -> None:
        """As a request whose device blocks hold ``content`` would."""
        for n in numbers:
            context = ReqContext(req_id=f"store-{n}")
            self.manager.on_new_request(context)
            output = self.manager.prepare_store([OffloadKey(key(n))], context)
            assert output is not None
            for row in output.store_spec.block_ids:
                self.rows[row] = np.frombuffer(content(n), dtype=np.int8)
            if output.keys_to_store:
                self.manager.complete_store(output.keys_to_store, context)
            self.manager.on_request_finished(context)
            self.settle()

    def settle(self) -> None:
        self.until(lambda: not self.manager.is_moving())

    def until(self, condition: Callable[[], bool], limit_s: float = 10.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            self.step()
            time.sleep(0.001)

    def step(self) -> None:
        self.manager._processed_jobs_this_step = False
        self.manager.poll()

    def stream(self, numbers: Sequence[int], window: int) -> tuple[LoadStream, dict[int, bytes]]:
        """Load chunks to a "device" as the scheduler does; returns what arrived there."""
        now = time.monotonic()
        items = [LoadItem(key(n), 0, i, (n,)) for i, n in enumerate(numbers)]
        load = LoadStream(items, now=now, patience_s=self._patience_s)
        device: dict[int, bytes] = {}

        def advance() -> bool:
            now = time.monotonic()
            load.check_patience(now)
            self.manager.bring(load.to_read(window - load.in_dram()), load, now)
            while run := load.take_run():
                keys = [item.key for item in run]
                for item, row in zip(run, self.manager.rows(keys).block_ids, strict=True):
                    device[item.block_ids[0]] = self.rows[row].tobytes()
                self.manager.unpin(keys)
                load.on_copied(keys, now)
            return load.ended

        self.until(advance)
        self.manager.forget_waiter(load)
        self.manager.unpin(load.pinned_leftovers())
        return load, device

    def close(self) -> None:
        self.rows = np.empty(0)
        self.manager.shutdown()


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    made = Tiers(tmp_path / "store")
    yield made
    made.close()


def test_a_prefix_four_times_dram_streams_whole_and_is_read_once(tiers: Tiers) -> None:
    numbers = range(4 * ROWS)
    tiers.store(numbers)
    tiers.dram.drop([key(n) for n in numbers])
    read_before = tiers.ssd.store.stats().bytes_read
    load, device = tiers.stream(numbers, window=ROWS // 2)
    assert load.failure is None
    assert device == {n: content(n) for n in numbers}
    assert tiers.ssd.store.stats().bytes_read - read_before == len(numbers) * CHUNK
    assert tiers.dram.room() == ROWS, "every pin is gone"


def test_streams_through_whatever_room_there_is(tiers: Tiers) -> None:
    """One free row is enough, whatever the size of a read."""
    numbers = range(6)
    tiers.store(numbers)
    tiers.dram.drop([key(n) for n in numbers])
    others = range(50, 50 + ROWS - 1)
    tiers.store(others)
    pinned = [key(n) for n in others]
    tiers.manager.pin(pinned)
    load, device = tiers.stream(numbers, window=4)
    assert load.failure is None
    assert device == {n: content(n) for n in numbers}
    tiers.manager.unpin(pinned)


def test_a_load_breaks_the_oldest_pin_when_nothing_else_gives_room(tiers: Tiers) -> None:
    """And neither a store nor a prefetch does, which can wait."""
    tiers.store(range(4))
    tiers.dram.drop([key(n) for n in range(4)])
    pins = [[key(n) for n in range(50, 54)], [key(n) for n in range(54, 58)]]
    tiers.store(range(50, 58))

    def break_oldest() -> bool:
        if pins:
            tiers.dram.rank(pins.pop(0), Standing.ORDINARY)
            return True
        return False

    tiers.dram.break_oldest_pin = break_oldest
    for pin in pins:
        tiers.dram.rank(pin, Standing.PINNED)
    assert (tiers.dram.room(), tiers.dram.spare(), tiers.manager.store_room()) == (ROWS, 0, 0)
    waiter = LoadStream([LoadItem(key(0), 0, 0, (0,))], now=0.0, patience_s=1.0)
    tiers.manager.bring([key(0)], waiter, 0.0, break_pins=False)
    assert not tiers.manager.is_moving()
    load, device = tiers.stream(range(4), window=4)
    assert load.failure is None
    assert device == {n: content(n) for n in range(4)}
    assert pins == [[key(n) for n in range(54, 58)]]
    assert all(tiers.dram.has(name) for name in pins[0])


def test_where_a_chunk_was_is_remembered(tiers: Tiers) -> None:
    tiers.store([1, 2, 3])
    tiers.dram.drop([key(2)])
    context = ReqContext(req_id="asks")
    results = [tiers.manager.lookup(OffloadKey(key(n)), context) for n in (1, 2, 4)]
    assert results == [LookupResult.HIT, LookupResult.HIT, LookupResult.MISS]
    assert tiers.manager.origins.of(context).tiers == {key(1): Tier.DRAM, key(2): Tier.SSD}


def test_what_ssd_holds_is_not_copied_again(tiers: Tiers) -> None:
    tiers.store([1])
    written = tiers.ssd.store.stats().bytes_written
    tiers.dram.drop([key(1)])
    tiers.store([1])
    assert not tiers.dram.has(key(1))
    assert tiers.ssd.store.stats().bytes_written == written


def test_a_chunk_lost_on_disk_ends_the_stream_before_it(tiers: Tiers) -> None:
    tiers.store(range(6))
    tiers.dram.drop([key(n) for n in range(6)])
    tiers.ssd.store.delete([key(3)])
    load, device = tiers.stream(range(6), window=4)
    assert load.failure is MissReason.EVICTED
    assert load.failed_at == 3
    assert {n: device[n] for n in range(3)} == {n: content(n) for n in range(3)}
    tiers.settle()
    assert tiers.dram.room() == ROWS


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Tiers]:
    made = Tiers(tmp_path / "impatient", patience_s=0.3)
    yield made
    made.close()


def test_a_hung_disk_costs_patience_and_no_more(impatient: Tiers) -> None:
    tiers = impatient
    tiers.store(range(4))
    tiers.dram.drop([key(n) for n in range(4)])
    tiers.files.hang_reads = returns = threading.Event()
    load, device = tiers.stream(range(4), window=4)
    assert load.failure is MissReason.IO_TIMEOUT
    assert device == {}
    context = ReqContext(req_id="later")
    tiers.until(lambda: tiers.manager.lookup(OffloadKey(key(0)), context) is LookupResult.MISS)
    assert tiers.dram.room() < ROWS, "the rows stay taken until the disk lets go of them"
    returns.set()
    tiers.files.hang_reads = None
    tiers.settle()
    assert tiers.dram.room() == ROWS
    assert tiers.manager.lookup(OffloadKey(key(0)), ReqContext(req_id="z")) is LookupResult.HIT


def test_pinned_chunks_are_not_evicted(tiers: Tiers) -> None:
    tiers.store(range(ROWS))
    kept = [key(n) for n in range(ROWS - 1)]
    tiers.manager.pin(kept)
    tiers.store(range(100, 110))
    assert all(tiers.dram.has(k) for k in kept)
    tiers.manager.unpin(kept)
    assert tiers.dram.drop(kept) == len(kept)
