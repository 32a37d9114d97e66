"""What the engine answers."""

import msgspec

from cache_tiers.hints.kv_report import KvReport
from cache_tiers.hints.wire import VERSION, Wire
from cache_tiers.types import SessionKey, Tier


class EngineInfo(Wire, frozen=True):
    """Facts that do not change while the engine runs."""

    fingerprint: str
    tokens_per_chunk: int
    chunk_bytes: int
    dram_chunks: int
    ssd_enabled: bool
    version: int = VERSION


class SessionKv(Wire, frozen=True):
    """Where a session's chunks are, in tokens and bytes. A chunk in two tiers counts in both."""

    session: SessionKey
    known: bool
    tokens: int = 0
    tokens_by_tier: dict[Tier, int] = msgspec.field(default_factory=dict)
    bytes_by_tier: dict[Tier, int] = msgspec.field(default_factory=dict)
    ssd_complete: bool = False
    """Whether every chunk of the session is on SSD."""
    back_in_s: float | None = None
    """Seconds from now until its next turn comes, in the median; None for a session that is not
    away, and where nothing is known."""
    back_by_s: float | None = None
    """Seconds from now until it has come in nine of ten cases; None as above, and where so many are
    not expected to come back at all."""


class Prefetched(Wire, frozen=True):
    """How a prefetch ended."""

    session: SessionKey
    tokens: int
    complete: bool


class Dropped(Wire, frozen=True):
    """What a drop freed."""

    session: SessionKey
    known: bool
    chunks: int = 0
    bytes: int = 0
    key_destroyed: bool = False
    """Whether the session's encryption key existed and is durably destroyed. False where
    encryption is off or the session had nothing on SSD."""


class SessionList(Wire, frozen=True):
    """Every session of which the engine holds at least one chunk in some tier."""

    sessions: list[SessionKv]


class Report(Wire, frozen=True):
    """The report asked for, or None when the request is not known (any more)."""

    report: KvReport | None


class Pinned(Wire, frozen=True):
    """What a pin holds now. Not ``granted`` when the tier has no room for one more lease."""

    session: SessionKey
    tier: Tier
    granted: bool
    tokens: int = 0
    bytes: int = 0


class BrokenPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pin that ended before its time: others needed the room."""

    session: SessionKey
    tier: Tier
    bytes: int
    reason: str


class BrokenPins(Wire, frozen=True):
    """In the order in which they were broken."""

    pins: list[BrokenPin]


class TenantBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one tenant's sessions hold, a chunk that several of them share counted once."""

    tenant: str
    by_tier: dict[Tier, int]
    pinned_by_tier: dict[Tier, int] = {}


class Usage(Wire, frozen=True):
    """Every tenant that holds anything."""

    tenants: list[TenantBytes]


class Pulse(Wire, frozen=True):
    """When the engine wants to be asked again. The newest one counts."""

    next_in_s: float | None
    """``Poll`` is due in so many seconds at the latest; None: not before something happens."""


class Foresight(Wire, frozen=True):
    """How well returns were predicted, and what the prefetches that followed were good for. Counts
    are since the engine's start."""

    distrusted_tenants: int
    """Those whose predictions have not fitted lately; recency decides about their sessions."""
    gaps: int
    """Gaps that ended, and so could be compared with what was predicted."""
    within: dict[str, float]
    """Share (0 … 1) of the latest gaps that ended before the predicted quantile of 10, 50 and 90 %
    (the keys ``"10"``, ``"50"``, ``"90"``)."""
    ks: float
    """Kolmogorov-Smirnov distance (0 … 1) of the latest gaps from what was predicted."""
    shifts: int
    """How often a tenant's predictions stopped fitting."""
    prefetched_chunks: int
    used_chunks: int
    """Of ``prefetched_chunks``, those that a request found where they had been brought."""
    late_chunks: int
    """Those that were still on their way when a request asked for them. It waits for those on their
    way to the device, which so are used, too."""
    wasted_bytes: int
    """Of chunks that left their tier again before anybody asked for them."""
    lead_s: float
    """From a request's first byte to the scheduler's question for its chunks: the median of the
    latest."""


class Done(Wire, frozen=True):
    """A command without a result is done."""


class Failure(Wire, frozen=True):
    """The command could not be carried out; ``message`` is for the operator's log."""

    message: str


Reply = (
    EngineInfo
    | SessionKv
    | Prefetched
    | Dropped
    | SessionList
    | Report
    | Pinned
    | BrokenPins
    | Usage
    | Pulse
    | Foresight
    | Done
    | Failure
)
