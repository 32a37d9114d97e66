"""Valet's KV connector: vLLM's OffloadingConnector with sessions, streams and control.

One instance lives in the scheduler's process, one in every worker; vLLM says which by ``role``.
"""

from concurrent.futures import Future
from typing import Any

import msgspec

from cache_tiers import hints
from engine.core_plugin.device_blocks import VllmDeviceBlocks
from engine.core_plugin.orders import ValetMetadata
from engine.core_plugin.scheduler import ValetScheduler
from engine.core_plugin.vllm_compat import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    OffloadingConnector,
    OffloadingConnectorWorker,
    OffloadingSpec,
    build_offloading_config,
    create_spec,
)


class ValetConnector(OffloadingConnector):
    """See the module's docstring."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        # As OffloadingConnector.__init__, with another scheduler side.
        KVConnectorBase_V1.__init__(self, vllm_config, role, kv_cache_config)
        offloading_config = build_offloading_config(vllm_config, kv_cache_config)
        self._canonical_layout = offloading_config.canonical_layout
        spec: OffloadingSpec = create_spec(offloading_config)
        self.connector_scheduler: ValetScheduler | None = None
        self.connector_worker: OffloadingConnectorWorker | None = None
        if role == KVConnectorRole.SCHEDULER:
            self.connector_scheduler = ValetScheduler(spec, vllm_config, kv_cache_config)
        else:
            self.connector_worker = OffloadingConnectorWorker(spec, vllm_config, kv_cache_config)

    # --- scheduler's process -------------------------------------------------------------------

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """vLLM hands over its device blocks."""
        super().bind_kv_cache_manager(kv_cache_manager)
        if self.connector_scheduler is not None:
            self.connector_scheduler.sessions.bind(VllmDeviceBlocks(kv_cache_manager))

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Whether to keep the blocks, and the request's report."""
        assert self.connector_scheduler is not None
        return self.connector_scheduler.request_finished(request)

    def has_pending_block_frees(self) -> bool:
        """vLLM asks before it preempts a request for want of blocks: whether to try again in the
        next step instead. The oldest pin is broken for it."""
        assert self.connector_scheduler is not None
        pending: bool = super().has_pending_block_frees()
        return pending or self.connector_scheduler.sessions.standings.break_device_pin()

    def reset_cache(self) -> bool:
        """Refused: chunks are on their way while the engine runs, and what is stored stays right
        (other weights have another fingerprint)."""
        return False

    def control(self, command: bytes) -> "bytes | Future[bytes]":
        """Carry out one encoded command; a Future for what takes more than a moment."""
        scheduler = self.connector_scheduler
        assert scheduler is not None
        try:
            decoded = hints.decode_command(command)
        except msgspec.ValidationError as error:
            return hints.encode(hints.Failure(f"not a command of this version: {error}"))
        return scheduler.desk.take(decoded)

    # --- workers ---------------------------------------------------------------------------------

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Ended stores and failed loads are the scheduler side's to decide: the worker echoes them.
        What its own copies report (one part of a load each) is not the end of a request."""
        self.get_finished(finished_req_ids)
        orders = self._orders()
        return KVConnectorTransferResults(
            finished_sending=set(orders.stores_ended),
            finished_recving=set(orders.loads_ended),
            failed_recving=set(orders.loads_failed),
        )

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks of failed loads: vLLM recomputes from the first of them."""
        return set(self._orders().failed_blocks)

    def _orders(self) -> ValetMetadata:
        orders = self._connector_metadata
        assert isinstance(orders, ValetMetadata)
        return orders
