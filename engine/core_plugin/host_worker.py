"""Copies between "device" blocks and DRAM on the CPU platform, on a thread of its own.

On the CPU platform the engine's blocks are host memory too, so a transfer is a memory copy. It runs
on one thread per worker: numpy releases the interpreter's lock for the length of each copy, so the
forward pass of other requests goes on meanwhile. On CUDA vLLM's own worker is used instead.
"""

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core_plugin.vllm_compat import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    SharedOffloadRegion,
    TransferResult,
)

logger = logging.getLogger(__name__)

Rows = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One transfer: blocks ``device`` and rows ``host`` in the same logical order."""

    job_id: int
    device: GPULoadStoreSpec
    host: BlockIDsLoadStoreSpec
    to_host: bool


class HostOffloadingWorker(OffloadingWorker):
    """Runs in the worker process. All methods are called on its main thread.

    ``device[t]`` has shape (blocks, page bytes); ``host[t]`` has shape
    (chunks, blocks_per_chunk × page bytes), a strided view into the shared DRAM region.
    """

    def __init__(
        self, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, region: SharedOffloadRegion
    ) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._region = region
        self._device: list[Rows] = []
        self._host: list[Rows] = []
        for cache in kv_caches.tensors:
            page = cache.page_size_bytes
            self._device.append(cache.tensor.view(torch.int8).view((-1, page)).numpy())
            view = region.create_next_worker_view(page * blocks_per_chunk)
            self._host.append(view.numpy())
        self._tensors_of_group = [
            [ref.tensor_idx for ref in refs] for refs in kv_caches.group_data_refs
        ]
        self._jobs: queue.SimpleQueue[CopyJob | None] = queue.SimpleQueue()
        self._results: deque[TransferResult] = deque()
        self._pending: set[int] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="valet-copy", daemon=True
        )
        self._thread.start()

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        """Device blocks to DRAM rows."""
        return self._submit(CopyJob(job_id, src_spec, _rows(dst_spec), to_host=True))

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        """DRAM rows to device blocks."""
        return self._submit(CopyJob(job_id, dst_spec, _rows(src_spec), to_host=False))

    def get_finished(self) -> list[TransferResult]:
        """Results since the last call."""
        finished: list[TransferResult] = []
        while self._results:
            finished.append(self._results.popleft())
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Block until these jobs are copied: their blocks are about to be reused."""
        with self._changed:
            self._changed.wait_for(lambda: not (job_ids & self._pending))

    def shutdown(self) -> None:
        """End the thread and release the region. Idempotent."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join()
        self._thread = None
        self._device.clear()
        self._host.clear()
        # The region's name is gone since the scheduler mapped it; cleanup would look for it.
        self._region._creator = False
        self._region.cleanup()

    def _submit(self, job: CopyJob) -> bool:
        with self._changed:
            self._pending.add(job.job_id)
        self._jobs.put(job)
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            began = time.perf_counter()
            try:
                copied = self._copy(job)
                taken = max(time.perf_counter() - began, 1e-9)
                result = TransferResult(job.job_id, True, copied, taken)
            except Exception:
                # vLLM ends the engine on a failed copy; without a result it would wait for ever.
                logger.exception("copying between device and DRAM failed")
                result = TransferResult(job.job_id, False)
            self._results.append(result)
            with self._changed:
                self._pending.discard(job.job_id)
                self._changed.notify_all()

    def _copy(self, job: CopyJob) -> int:
        """Copies one job; returns bytes."""
        copied = 0
        blocks = job.device.block_ids.tolist()
        rows = job.host.block_ids.tolist()
        per_chunk = self._blocks_per_chunk
        block_at = row_at = 0
        for group, (count, first) in enumerate(
            zip(job.device.group_sizes, job.device.block_indices, strict=True)
        ):
            if count == 0:
                continue
            skip = first % per_chunk
            chunks = -(-(count + skip) // per_chunk)
            for i in range(count):
                row, part = divmod(skip + i, per_chunk)
                copied += self._copy_block(
                    group, blocks[block_at + i], rows[row_at + row], part, job.to_host
                )
            block_at += count
            row_at += chunks
        if block_at != len(blocks) or row_at != len(rows):
            raise AssertionError(f"job {job.job_id}: {len(blocks)} blocks for {len(rows)} chunks")
        return copied

    def _copy_block(self, group: int, block: int, row: int, part: int, to_host: bool) -> int:
        copied = 0
        for tensor in self._tensors_of_group[group]:
            device = self._device[tensor][block]
            page = device.shape[0]
            host = self._host[tensor][row, part * page : (part + 1) * page]
            if to_host:
                np.copyto(host, device)
            else:
                np.copyto(device, host)
            copied += page
        return copied


def _rows(spec: LoadStoreSpec) -> BlockIDsLoadStoreSpec:
    assert isinstance(spec, BlockIDsLoadStoreSpec)
    return spec
