"""How vLLM builds Valet's tiers: DRAM region, SSD tier, and the worker that copies."""

import contextlib
import os
import time
from typing import Any

from cache_tiers.fingerprint import fingerprint
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import StoreInUse
from engine.core_plugin import prefetch_metrics
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.host_worker import HostOffloadingWorker
from engine.core_plugin.manager import TierManager
from engine.core_plugin.ssd_tier import SsdTier
from engine.core_plugin.vllm_compat import (
    CanonicalKVCaches,
    OffloadingConfig,
    OffloadingMetricMetadata,
    OffloadingWorker,
    SharedOffloadRegion,
    TieringOffloadingSpec,
    current_platform,
)

MINIMUM_DRAM_CHUNKS = 4
STORE_PATIENCE_S = 20.0
"""How long a starting engine waits for a store that a killed one is still closing."""


class ValetSpec(TieringOffloadingSpec):
    """Reads, of ``kv_connector_extra_config``: ``cpu_bytes_to_use`` (DRAM tier), ``store`` (of the
    SSD tier; None for none), ``ssd_minimum_tokens``, ``prefetch`` (whether chunks come up before
    they are asked for), ``load_slowdown`` (by how much of itself a step may take longer beside
    loads; 0 for any) and ``facts`` (what the API process knows for the fingerprint)."""

    @classmethod
    def build_metric_definitions(
        cls, extra_config: dict[str, Any]
    ) -> dict[str, OffloadingMetricMetadata]:
        """vLLM's, of prefetches and, with a store, the SSD tier's."""
        metrics: dict[str, OffloadingMetricMetadata] = super().build_metric_definitions(
            extra_config
        )
        metrics.update(prefetch_metrics.definitions())
        if extra_config["store"]:
            metrics.update(SsdTier.build_metric_definitions(extra_config))
        return metrics

    def __init__(self, config: OffloadingConfig) -> None:
        super().__init__(config)
        self._manager: TierManager | None = None
        self._worker: OffloadingWorker | None = None
        self.fingerprint = fingerprint({**self.extra_config["facts"], **_layout_facts(config)})
        if self.num_chunks < MINIMUM_DRAM_CHUNKS:
            raise ValueError(
                f"the DRAM tier holds {self.num_chunks} chunks of {self.kv_bytes_per_chunk} bytes; "
                f"give it at least {MINIMUM_DRAM_CHUNKS * self.kv_bytes_per_chunk} bytes"
            )

    @property
    def load_slowdown(self) -> float | None:
        """By how much of itself a step may take longer beside loads; None for any. An accelerator
        copies by itself, and its steps lose nothing to loads."""
        return self.extra_config["load_slowdown"] or None if current_platform.is_cpu() else None

    def get_manager(self) -> TierManager:
        """The scheduler side's manager; made once."""
        if self._manager is None:
            self._manager = self._make_manager()
        return self._manager

    def _make_manager(self) -> TierManager:
        region = SharedOffloadRegion(
            engine_id=self._engine_id,
            num_chunks=self.num_chunks,
            rank=None,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        try:
            # Every worker has mapped the region before the scheduler is made; without a name, its
            # memory goes with its last process, however that ends.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(region.mmap_path)  # noqa: PTH108
            dram = DramTier(num_chunks=self.num_chunks, mmap_region=region)
            return TierManager(dram, self._open_ssd(dram))
        except Exception:
            region.cleanup()
            raise

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """vLLM's own worker on an accelerator; ours on the CPU platform."""
        if not current_platform.is_cpu():
            worker: OffloadingWorker = super().get_worker(kv_caches)
            return worker
        if self._worker is None:
            self._worker = self._host_worker(kv_caches)
        return self._worker

    def _host_worker(self, kv_caches: CanonicalKVCaches) -> HostOffloadingWorker:
        region = SharedOffloadRegion(
            engine_id=self._engine_id,
            num_chunks=self.num_chunks,
            rank=self.config.parallel.rank,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        try:
            return HostOffloadingWorker(kv_caches, self.blocks_per_chunk, region)
        except Exception:
            region.cleanup()
            raise

    def _open_ssd(self, dram: DramTier) -> SsdTier | None:
        if self.extra_config["store"] is None:
            return None
        installation = Installation.from_builtins(self.extra_config["store"])
        store = self._open_store(installation)
        try:
            manifests = Manifests.open(installation.manifests(self.fingerprint))
        except Exception:
            store.close()
            raise
        return SsdTier(self, dram.get_kv_memoryview(), "ssd", store=store, manifests=manifests)

    def _open_store(self, installation: Installation) -> SsdStore:
        """Patient with a former engine that is still closing it."""
        give_up_at = time.monotonic() + STORE_PATIENCE_S
        while True:
            try:
                return open_store(installation, self.fingerprint, self.kv_bytes_per_chunk)
            except StoreInUse:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.1)


def _layout_facts(config: OffloadingConfig) -> dict[str, str | int]:
    """What the engine decides about the bytes of a chunk."""
    parallel = config.parallel
    return {
        "dtype": config.model.dtype,
        "layout": str(config.kv_cache_layout),
        "groups": repr([(g.group_id, g.tokens_per_block, g.layer_names) for g in config.groups]),
        "tokens_per_hash": config.cache.tokens_per_hash,
        "blocks_per_chunk": config.cache.blocks_per_chunk,
        "bytes_per_block": config.worker_kv_bytes_per_block,
        "parallel": repr(
            (
                parallel.world_size,
                parallel.tp_size,
                parallel.pp_size,
                parallel.pcp_size,
                parallel.dcp_size,
            )
        ),
    }
