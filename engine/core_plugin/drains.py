"""Finished requests whose last chunks are not saved yet: they keep their device blocks for a while.

Scheduler thread only.
"""

from collections.abc import Mapping

from engine.core_plugin.vllm_compat import RequestOffloadState, RequestStatus

PATIENCE_S = 10.0
"""A finished request's device blocks are kept at most this long for chunks not yet saved."""


class Drains:
    """``states`` are vLLM's, by request; a live view."""

    def __init__(self, states: Mapping[str, RequestOffloadState]) -> None:
        self._states = states
        self._until: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    @property
    def requests(self) -> set[str]:
        """Those that drain."""
        return set(self._until)

    def begin(self, request_id: str, now: float) -> bool:
        """The request is over; whether it has anything left to save."""
        if unsaved(self._states[request_id]) <= 0:
            return False
        self._until[request_id] = now + PATIENCE_S
        return True

    def take_ended(self, now: float) -> dict[str, int]:
        """Requests that have drained or had their time, each with how many chunks it did not
        save."""
        ended: dict[str, int] = {}
        for request_id, deadline in list(self._until.items()):
            state = self._states.get(request_id)
            if state is None:
                ended[request_id] = 0
            elif not state.transfer_jobs and ((left := unsaved(state)) == 0 or now > deadline):
                ended[request_id] = left
        for request_id in ended:
            del self._until[request_id]
        return ended


def unsaved(state: RequestOffloadState) -> int:
    """Chunks of a finished request that have not been handed to a store yet."""
    request = state.req
    if request.status is RequestStatus.FINISHED_ABORTED:
        tokens = request.num_computed_tokens
    else:
        tokens = max(request.num_prompt_tokens, request.num_tokens - 1)
    configs = state.config.kv_group_configs
    return sum(
        max(0, state.storable_chunks(config, group, tokens) - group.next_stored_chunk_idx)
        for config, group in zip(configs, state.group_states, strict=True)
    )
