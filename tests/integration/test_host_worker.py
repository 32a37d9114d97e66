"""Copies between device blocks and DRAM rows, on a thread of their own."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm.v1.kv_offload.base import CanonicalKVCacheRef, CanonicalKVCacheTensor

from engine.core_plugin.host_worker import HostOffloadingWorker
from engine.core_plugin.vllm_compat import (
    CanonicalKVCaches,
    CPULoadStoreSpec,
    GPULoadStoreSpec,
    SharedOffloadRegion,
)

BLOCKS, PAGE, TENSORS, PER_CHUNK, ROWS = 12, 512, 4, 2, 5
ROW = PAGE * TENSORS * PER_CHUNK


class Worker:
    """A worker on random "device" tensors, and its DRAM rows as the scheduler's side sees them."""

    def __init__(self) -> None:
        name = f"test-{os.getpid()}-{id(self)}"
        self.region = SharedOffloadRegion(name, ROWS, 0, ROW, ROW)
        Path(self.region.mmap_path).unlink()
        random = np.random.default_rng(1)
        self.device = [
            torch.from_numpy(random.integers(-128, 127, (BLOCKS, PAGE), dtype=np.int8))
            for _ in range(TENSORS)
        ]
        caches = CanonicalKVCaches(
            [CanonicalKVCacheTensor(tensor, PAGE) for tensor in self.device],
            [[CanonicalKVCacheRef(i, PAGE) for i in range(TENSORS)]],
        )
        self.worker = HostOffloadingWorker(caches, PER_CHUNK, self.region)
        self.rows = self.region.base_tensor.view(ROWS, ROW).numpy()

    def finish(self, job_id: int) -> None:
        self.worker.wait({job_id})
        results = self.worker.get_finished()
        assert [(r.job_id, r.success) for r in results] == [(job_id, True)]


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.rows = np.empty(0)
    made.worker.shutdown()
    made.worker.shutdown()


def spec(blocks: list[int], first: int) -> GPULoadStoreSpec:
    return GPULoadStoreSpec(blocks, group_sizes=[len(blocks)], block_indices=[first])


@pytest.mark.parametrize(
    ("blocks", "first", "rows"),
    [([3, 7], 0, [2]), ([3, 7, 1, 9], 4, [4, 0]), ([5], 1, [3]), ([8, 2, 6], 3, [1, 2])],
)
def test_there_and_back(worker: Worker, blocks: list[int], first: int, rows: list[int]) -> None:
    """Also from and to the middle of a chunk."""
    before = [tensor.clone() for tensor in worker.device]
    assert worker.worker.submit_store(1, spec(blocks, first), CPULoadStoreSpec(rows))
    worker.finish(1)
    for i, block in enumerate(blocks):
        row, part = divmod(first % PER_CHUNK + i, PER_CHUNK)
        for number, tensor in enumerate(before):
            start = number * PAGE * PER_CHUNK + part * PAGE
            stored = worker.rows[rows[row], start : start + PAGE]
            assert np.array_equal(stored, tensor[block].numpy())
    for tensor in worker.device:
        tensor[blocks] = 0
    assert worker.worker.submit_load(2, CPULoadStoreSpec(rows), spec(blocks, first))
    worker.finish(2)
    for tensor, old in zip(worker.device, before, strict=True):
        assert torch.equal(tensor, old)


def test_the_caller_does_not_wait(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitting hands over: the forward pass goes on while the copy runs elsewhere."""
    goes_on, threads = threading.Event(), []
    copy = worker.worker._copy

    def held(job: object) -> int:
        threads.append(threading.current_thread())
        assert goes_on.wait(10)
        return copy(job)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.worker, "_copy", held)
    assert worker.worker.submit_load(3, CPULoadStoreSpec([0]), spec([1, 2], 0))
    assert worker.worker.get_finished() == []
    goes_on.set()
    worker.finish(3)
    assert threads[0] is not threading.main_thread()


def test_a_failed_copy_is_reported(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is carried out."""

    def broken(job: object) -> int:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(worker.worker, "_copy", broken)
        worker.worker.submit_load(4, CPULoadStoreSpec([0]), spec([1, 2], 0))
        worker.worker.wait({4})
    assert [r.success for r in worker.worker.get_finished()] == [False]
    worker.worker.submit_load(5, CPULoadStoreSpec([0]), spec([1, 2], 0))
    worker.finish(5)
