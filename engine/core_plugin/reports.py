"""What each request reused and why the rest was computed: the source of every receipt.

Pure bookkeeping of the scheduler thread, one record a request.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_tiers.hints import KvReport, Miss
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier

KEPT = 1024
"""Finished reports kept for ``TakeReport``; older ones are forgotten."""


@dataclass(slots=True)
class RequestRecord:
    """One running request. Token counts are of its prompt."""

    session: SessionKey | None
    held: tuple[ChunkKey, ...] | None
    """The session's chain before this request; None for a session that is not known."""
    admitted: bool = False
    awaits_fill_since: float | None = None
    """When it asked for chunks that are being brought to the device, on the monotonic clock."""
    at_hand: int | None = None
    """Leading chunks in DRAM or on the device when it first asked, for one that waited for a fill.
    """
    made_room: bool = False
    """Whether others have made room on the device for it."""
    device: int = 0
    tokens_by_tier: dict[Tier, int] = field(default_factory=dict)
    prefetched: int = 0
    bytes_loaded: int = 0
    load_ms: float = 0.0
    failure: MissReason | None = None


class ReportLedger:
    """Records by request id; finished reports in a bounded buffer."""

    def __init__(self, tokens_per_chunk: int, *, store_enabled: bool) -> None:
        self._tokens_per_chunk = tokens_per_chunk
        self._store_enabled = store_enabled
        self._records: dict[str, RequestRecord] = {}
        self._finished: OrderedDict[str, KvReport] = OrderedDict()

    def begin(
        self, request_id: str, session: SessionKey | None, held: tuple[ChunkKey, ...] | None
    ) -> None:
        """A request has arrived."""
        self._records[request_id] = RequestRecord(session, held)

    def get(self, request_id: str) -> RequestRecord | None:
        """The record of a running request."""
        return self._records.get(request_id)

    def finish(
        self,
        request_id: str,
        prompt_tokens: int,
        chain: Sequence[ChunkKey],
        superseded: int = 0,
    ) -> KvReport | None:
        """Close a request's record; ``chain`` are the chunks of its prompt, ``superseded`` the
        tokens that it leaves behind."""
        record = self._records.pop(request_id, None)
        if record is None:
            return None
        report = self._report(record, prompt_tokens, chain, superseded)
        self._finished[request_id] = report
        if len(self._finished) > KEPT:
            self._finished.popitem(last=False)
        return report

    def preview(
        self,
        request_id: str,
        prompt_tokens: int,
        chain: Sequence[ChunkKey],
        superseded: int = 0,
    ) -> KvReport | None:
        """As ``finish``, for a request whose end the engine has not seen yet."""
        record = self._records.get(request_id)
        if record is None:
            return None
        return self._report(record, prompt_tokens, chain, superseded)

    def find_finished(self, external_id: str) -> KvReport | None:
        """The report of a finished request by the id under which it was submitted, to which the
        engine has added a suffix of its own."""
        for request_id in reversed(self._finished):
            if external_id in request_id:
                return self._finished[request_id]
        return None

    def _report(
        self, record: RequestRecord, prompt: int, chain: Sequence[ChunkKey], superseded: int
    ) -> KvReport:
        device = record.device
        dram = record.tokens_by_tier.get(Tier.DRAM, 0)
        ssd = record.tokens_by_tier.get(Tier.SSD, 0)
        # The last token is always computed, to have something to sample from: a prompt that was
        # found whole gives one token back.
        surplus = max(0, device + dram + ssd - (prompt - 1))
        if surplus:
            if ssd:
                ssd -= surplus
            elif dram:
                dram -= surplus
            else:
                device -= surplus
        reused = device + dram + ssd
        return KvReport(
            prompt=prompt,
            computed=prompt - reused,
            device=device,
            dram=dram,
            ssd=ssd,
            prefetched=min(record.prefetched, dram + ssd),
            bytes_loaded=record.bytes_loaded,
            load_ms=round(record.load_ms, 3),
            misses=self._misses(record, prompt, reused, chain),
            superseded=superseded,
        )

    def _misses(
        self, record: RequestRecord, prompt: int, reused: int, chain: Sequence[ChunkKey]
    ) -> tuple[Miss, ...]:
        """Runs of computed tokens from ``reused`` to the prompt's end, each with its reason."""
        if reused >= prompt:
            return ()
        rest = prompt - reused
        if record.held is None:
            if prompt < self._tokens_per_chunk:
                return (Miss(MissReason.BELOW_MINIMUM, reused, rest),)
            return (Miss(MissReason.NEW_SESSION, reused, rest),)
        common = _common_prefix(record.held, chain)
        known = min(common * self._tokens_per_chunk, prompt)
        misses = []
        if reused < known and rest > 1:
            misses.append(Miss(self._lost_reason(record), reused, known - reused))
        new_at = max(reused, known)
        if new_at < prompt:
            grew = common == len(record.held)
            reason = MissReason.APPENDED if grew else MissReason.PREFIX_CHANGED
            misses.append(Miss(reason, new_at, prompt - new_at))
        if not misses:
            misses.append(Miss(MissReason.APPENDED, reused, rest))
        return tuple(misses)

    def _lost_reason(self, record: RequestRecord) -> MissReason:
        if record.failure is not None:
            return record.failure
        return MissReason.EVICTED if self._store_enabled else MissReason.STORE_DISABLED


def _common_prefix(a: Sequence[ChunkKey], b: Sequence[ChunkKey]) -> int:
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))
