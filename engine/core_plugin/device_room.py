"""Room on the device for requests: what is worth less, and pins, give way. Scheduler thread
only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.core_plugin.device_blocks import blocks_needed
from engine.core_plugin.foresight import Foresight
from engine.core_plugin.reports import ReportLedger
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import RequestOffloadState


class DeviceRoom:
    """``block_tokens`` has a block's size for each group; ``one_group``: a request's block hashes
    are the names of its blocks. ``is_loading`` says it of a request id."""

    def __init__(
        self,
        sessions: SessionChunks,
        foresight: Foresight,
        ledger: ReportLedger,
        is_loading: Callable[[str], bool],
        *,
        block_tokens: Sequence[int],
        one_group: bool,
    ) -> None:
        self._sessions = sessions
        self._foresight = foresight
        self._ledger = ledger
        self._is_loading = is_loading
        self._block_tokens = block_tokens
        self._one_group = one_group

    def make(self, request: Any, computed: int) -> None:
        """Blocks for ``request`` are allocated next; its first ``computed`` tokens are on the
        device."""
        device, record = self._sessions.device, self._ledger.get(request.request_id)
        if device is None or record is None:
            return
        hashes = request.block_hashes if self._one_group else None
        blocks = blocks_needed(device, self._block_tokens, request.num_tokens, computed, hashes)
        if not record.made_room:
            record.made_room = True
            self._foresight.make_room_on_device(blocks)
        if self._sessions.standings.holds_device:
            self._sessions.standings.make_room_on_device(blocks)

    def free_the_stuck(self, states: Mapping[str, RequestOffloadState]) -> None:
        """Nothing ran in this step. A request whose prefix is loaded and that is not under way in
        any other manner waits for blocks, and nobody but pins would give them back."""
        if not self._sessions.standings.holds_device:
            return
        for request_id, state in states.items():
            record = self._ledger.get(request_id)
            if record is None or not record.admitted or self._is_loading(request_id):
                continue
            if not state.req.is_finished():
                self._sessions.standings.break_device_pin()
                return
