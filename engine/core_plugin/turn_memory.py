"""What a session's chain is after a request. Scheduler thread only."""

from collections.abc import Mapping
from typing import Any

from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.reports import ReportLedger
from engine.core_plugin.request_chain import chain_of
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import RequestOffloadState, RequestStatus


class TurnMemory:
    """``states`` are vLLM's, by request; a live view."""

    def __init__(
        self,
        sessions: SessionChunks,
        ledger: ReportLedger,
        states: Mapping[str, RequestOffloadState],
    ) -> None:
        self._sessions = sessions
        self._ledger = ledger
        self._states = states

    def remember(self, state: RequestOffloadState) -> int:
        """The session's chain is now this request's computed chunks; how many tokens of its history
        that leaves behind."""
        session, keys = self._computed(state)
        if session is None or not keys:
            return 0
        request = state.req
        return self._sessions.remember(
            session,
            self._came_with(request),
            keys,
            request.block_hashes,
            alone=self.is_alone(request),
        )

    def leaves_behind(self, state: RequestOffloadState) -> int:
        """As ``remember``, for a request that has not ended."""
        session, keys = self._computed(state)
        if session is None or not keys:
            return 0
        alone = self.is_alone(state.req)
        return self._sessions.left_by(session, self._came_with(state.req), keys, alone=alone)

    def is_alone(self, request: Any) -> bool:
        """Whether no other request of the session runs."""
        return not any(
            state.req.session_id == request.session_id
            for request_id, state in self._states.items()
            if request_id != request.request_id and not state.req.is_finished()
        )

    def _computed(self, state: RequestOffloadState) -> tuple[SessionKey | None, list[ChunkKey]]:
        """The request's session, if it has one, and the chunks computed of it; none of one that was
        cut short before it got as far as the turn before it."""
        request = state.req
        if not request.session_id:
            return None, []
        session = SessionKey(request.session_id)
        computed = max(min(request.num_computed_tokens, request.num_tokens - 1), 0)
        keys = [key for key, end in chain_of(state) if end <= computed]
        aborted = request.status is RequestStatus.FINISHED_ABORTED
        before = self._sessions.chain(session) or ()
        return session, [] if aborted and before[: len(keys)] == tuple(keys) else keys

    def _came_with(self, request: Any) -> tuple[ChunkKey, ...] | None:
        record = self._ledger.get(request.request_id)
        return None if record is None else record.held
