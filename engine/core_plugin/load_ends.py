"""How a request's load ends, and who is told. Scheduler thread only.

vLLM takes the end of a load from the output of a step. One that is whole is put there by the
scheduler itself, in the step that reports its last copy. Where blocks hold nothing the workers must
name them, so a load that failed goes out with the next step's orders, and is over when the workers'
echo comes back.
"""

from collections.abc import Sequence

from engine.core_plugin.load_records import LoadRecords
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.orders import Orders
from engine.core_plugin.reports import ReportLedger
from engine.core_plugin.vllm_compat import KVConnectorOutput, RequestOffloadState


class LoadEnds:
    """See the module's docstring."""

    def __init__(
        self,
        orders: Orders,
        ledger: ReportLedger,
        records: LoadRecords,
        *,
        block_tokens: int,
        chunk_tokens: Sequence[int],
    ) -> None:
        """``block_tokens`` of the first group, ``chunk_tokens`` of each."""
        self._orders = orders
        self._ledger = ledger
        self._records = records
        self._block_tokens = block_tokens
        self._chunk_tokens = tuple(chunk_tokens)
        self._whole: set[str] = set()
        self._awaits_echo: set[str] = set()

    def ended(self, state: RequestOffloadState, stream: LoadStream, now: float) -> None:
        """A request's load is over, whole or not."""
        request_id = state.req.request_id
        record = self._ledger.get(request_id)
        if record is not None:
            record.load_ms += (now - stream.opened_at) * 1000
        if stream.failure is None:
            self._whole.add(request_id)
            return
        lost = stream.lost()
        if lost and not state.req.is_finished():
            self._give_back(state, stream, lost)
        self._orders.loads_ended.add(request_id)
        self._awaits_echo.add(request_id)

    def is_ending(self, request_id: str) -> bool:
        """Whether a request's load is over, and vLLM does not know."""
        return request_id in self._whole or request_id in self._awaits_echo

    def tell(self, output: KVConnectorOutput) -> None:
        """Put into a step's output what vLLM is to know, before it reads that."""
        echoed = output.finished_recving or set()
        output.finished_recving = echoed | self._whole
        self._awaits_echo -= echoed
        self._whole.clear()

    def _give_back(
        self, state: RequestOffloadState, stream: LoadStream, lost: Sequence[LoadItem]
    ) -> None:
        """Blocks that hold nothing are computed, and saved again."""
        request = state.req
        # A chunk that cannot be read may still be listed: asking again would fail again, for ever.
        state.max_load_tokens = 0
        if len(state.group_states) == 1:
            self._orders.failed_blocks.update(block for item in lost for block in item.block_ids)
            valid = lost[0].first_block * self._block_tokens
        else:
            # Block numbers of several groups overlap: vLLM then takes the whole request back.
            self._orders.loads_failed.add(request.request_id)
            valid = 0
        for group, tokens in zip(state.group_states, self._chunk_tokens, strict=True):
            group.next_stored_chunk_idx = min(group.next_stored_chunk_idx, valid // tokens)
        record = self._ledger.get(request.request_id)
        if record is None:
            return
        record.failure = stream.failure
        lost_tokens = self._records.tokens(lost)
        self._records.lost(record, state, lost)
        if (stats := request.prefill_stats) is not None:
            stats.set(
                num_prompt_tokens=request.num_prompt_tokens,
                num_local_cached_tokens=stats.num_local_cached_tokens,
                num_external_cached_tokens=max(0, stats.num_external_cached_tokens - lost_tokens),
            )
