"""Requests and what is brought up for them: looked ahead for, waited for, found. Scheduler thread
only."""

import time
from collections.abc import Mapping

from engine.core_plugin.choice import Choice
from engine.core_plugin.foresight import Foresight
from engine.core_plugin.load_records import LoadRecords
from engine.core_plugin.loads import FILL, Loads
from engine.core_plugin.reports import ReportLedger, RequestRecord
from engine.core_plugin.request_chain import prompt_of
from engine.core_plugin.vllm_compat import RequestOffloadState


class RequestPrefetch:
    """``states`` are the engine's, by request id."""

    def __init__(
        self,
        states: Mapping[str, RequestOffloadState],
        ledger: ReportLedger,
        foresight: Foresight,
        loads: Loads,
        choice: Choice,
        records: LoadRecords,
        *,
        chunk_tokens: int,
    ) -> None:
        self._states = states
        self._ledger = ledger
        self._foresight = foresight
        self._loads = loads
        self._choice = choice
        self._records = records
        self._chunk_tokens = chunk_tokens
        self._queued: list[str] = []
        """Requests that have come since ``look_ahead``."""

    def queued(self, request_id: str) -> None:
        """A request of a session waits to be scheduled."""
        self._queued.append(request_id)

    def look_ahead(self) -> None:
        """Have chunks of requests that wait to be scheduled brought up, once a request, in the
        order of the queue."""
        for request_id in self._queued:
            state, record = self._states.get(request_id), self._ledger.get(request_id)
            if state is None or record is None or record.admitted or record.session is None:
                continue
            state.update_offload_keys()
            self._foresight.look_ahead(record.session, prompt_of(state))
        self._queued.clear()

    def awaits_fill(self, request_id: str) -> bool:
        """The scheduler asks for a request's chunks: whether they are just being brought to the
        device."""
        record = self._ledger.get(request_id)
        if record is None or record.session is None:
            return False
        now = time.monotonic()
        self._foresight.asked(record.session)
        if self._foresight.planning.fills.is_filling(record.session):
            fills = self._loads.streams(FILL)
            if awaited := self._choice.awaits(self._states[request_id], fills, now):
                self._records.awaits(record, awaited)
                record.awaits_fill_since = record.awaits_fill_since or now
                self._loads.await_fills()
                return True
        if record.awaits_fill_since is not None:
            record.load_ms += (now - record.awaits_fill_since) * 1000
            record.awaits_fill_since = None
        return False

    def found(self, record: RequestRecord) -> None:
        """A request has what it finds: prefetches learn what they were good for, and the request
        what they did for it."""
        if record.session is None:
            return
        planning = self._foresight.planning
        on_device = record.device // self._chunk_tokens
        above = self._records.above(record)
        brought = planning.found(record.session, on_device, above, time.monotonic(), record.at_hand)
        if sum(brought.before.values()) > brought.in_time:
            planning.fills.tally.waited(record.load_ms / 1000)
        self._records.found(record, brought)
        record.failure = record.failure or planning.take_failure(record.session)
