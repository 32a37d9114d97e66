"""The wire between the API process and the engine's plugin. Version 3.

One EngineCore utility call carries one encoded ``Command`` and returns one encoded reply (or an
encoded ``Failure``). Structs are tagged and forbid unknown fields, so that two versions that do
not fit fail loudly instead of half-understanding each other.
"""

from typing import cast

import msgspec

from cache_tiers.returns.types import Awaits
from cache_tiers.types import MissReason, SessionKey, Tier

VERSION = 4


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of everything on the wire."""


# --- what the engine says of one request ---------------------------------------------------------


class Miss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of prompt tokens that was computed, and why."""

    reason: MissReason
    at_token: int
    tokens: int


class KvReport(_Wire, frozen=True):
    """What one request reused. All counts in tokens of its prompt.

    ``device + dram + ssd + computed == prompt``. Each counts what was in its tier when the request,
    or a prefetch before it, asked; ``prefetched`` is the part of ``dram`` and ``ssd`` that a
    prefetch had brought further up by the time the request asked.
    """

    prompt: int
    computed: int
    device: int = 0
    dram: int = 0
    ssd: int = 0
    prefetched: int = 0
    bytes_loaded: int = 0
    load_ms: float = 0.0
    misses: tuple[Miss, ...] = ()
    superseded: int = 0
    """Tokens of the session's previous history that this prompt leaves behind: their chunks are the
    first to go."""


# --- commands ------------------------------------------------------------------------------------


class GetInfo(_Wire, frozen=True):
    """Ask for ``EngineInfo``."""


class GetStatus(_Wire, frozen=True):
    """Ask for a session's ``SessionKv``."""

    session: SessionKey


class Park(_Wire, frozen=True):
    """Complete the SSD copy of a session, then free its device blocks and DRAM chunks that no
    session in use holds. Replied to with ``SessionKv`` when the copy is complete."""

    session: SessionKey


class Prefetch(_Wire, frozen=True):
    """Bring a session's chunks up to ``tier``, dram or device, as far as there is room. An engine
    whose chunks are not single blocks goes no further than dram."""

    session: SessionKey
    tier: Tier = Tier.DRAM
    deadline_ms: int = 10_000


class Drop(_Wire, frozen=True):
    """Forget a session; chunks that no other session holds leave every tier."""

    session: SessionKey


class ListSessions(_Wire, frozen=True):
    """Ask for ``SessionList``."""


class TakeReport(_Wire, frozen=True):
    """Ask for the ``KvReport`` of a request whose final output did not carry one."""

    request_id: str


class Flush(_Wire, frozen=True):
    """Wait until every chunk on its way to the SSD is there."""


class Pin(_Wire, frozen=True):
    """Claim a session's chunks in ``tier``, those that are there now and those that its turns bring
    there, for ``ttl_s`` from now; replaces an earlier pin of the same session and tier. A lease:
    under pressure the oldest are broken, which ``TakeBroken`` tells. Replied to with ``Pinned``."""

    session: SessionKey
    tier: Tier
    ttl_s: int


class Unpin(_Wire, frozen=True):
    """End a session's pin of ``tier``, or of every tier when it is None. Replied to with
    ``Done``."""

    session: SessionKey
    tier: Tier | None = None


class TakeBroken(_Wire, frozen=True):
    """Ask for ``BrokenPins`` since the last time."""


class Fork(_Wire, frozen=True):
    """Give ``child`` the chunks of ``parent`` that lie within the first ``tokens`` (all when None):
    shared, nothing is copied. A child that exists already is replaced. Replied to with
    ``SessionKv`` of the child."""

    parent: SessionKey
    child: SessionKey
    tokens: int | None = None


class Truncate(_Wire, frozen=True):
    """Cut a session to its first ``tokens``. What lay behind is superseded: where no other session
    holds it, it is the first to go from every tier. Replied to with ``SessionKv``."""

    session: SessionKey
    tokens: int


class GetUsage(_Wire, frozen=True):
    """Ask for ``Usage``."""


class TurnEnded(_Wire, frozen=True):
    """A session's turn was answered: from now on it is away. Replied to with ``Pulse``."""

    session: SessionKey
    awaits: Awaits
    tool: str = ""
    """Name of the first tool that the answer called; empty for none."""
    turn: int = 1
    """Number of the turn in its session, from 1."""
    hour: int = 0
    """Of the day, 0 … 23, where the API process is."""
    expected_s: float | None = None
    """How long the client said that the gap will last."""


class Arriving(_Wire, frozen=True):
    """A request of the session has begun to arrive; nothing of it is read yet. Its chunks come up
    at once, as for a request that waits. Replied to with ``Pulse``, which waits for no load."""

    session: SessionKey


class Expect(_Wire, frozen=True):
    """The client says, in the gap, that it will last so long from now. Replied to with
    ``Pulse``."""

    session: SessionKey
    expected_s: float | None
    """None: for as long as gaps of this tool last."""
    tool: str = ""
    """What it waits for; empty for what is known already."""


class Poll(_Wire, frozen=True):
    """Do what is due. Replied to with ``Pulse``."""


Hint = TurnEnded | Arriving | Expect | Poll
"""What the engine may decide by, told at any time; it answers with a ``Pulse`` at once."""


class GetForesight(_Wire, frozen=True):
    """Ask for ``Foresight``."""


Command = (
    GetInfo
    | GetStatus
    | Park
    | Prefetch
    | Drop
    | ListSessions
    | TakeReport
    | Flush
    | Pin
    | Unpin
    | TakeBroken
    | Fork
    | Truncate
    | GetUsage
    | TurnEnded
    | Arriving
    | Expect
    | Poll
    | GetForesight
)


# --- replies -------------------------------------------------------------------------------------


class EngineInfo(_Wire, frozen=True):
    """Facts that do not change while the engine runs."""

    fingerprint: str
    tokens_per_chunk: int
    chunk_bytes: int
    dram_chunks: int
    ssd_enabled: bool
    version: int = VERSION


class SessionKv(_Wire, frozen=True):
    """Where a session's chunks are, in tokens and bytes. A chunk in two tiers counts in both."""

    session: SessionKey
    known: bool
    tokens: int = 0
    tokens_by_tier: dict[Tier, int] = {}
    bytes_by_tier: dict[Tier, int] = {}
    ssd_complete: bool = False
    """Whether every chunk of the session is on SSD."""
    back_in_s: float | None = None
    """Seconds from now until its next turn comes, in the median; None for a session that is not
    away, and where nothing is known."""
    back_by_s: float | None = None
    """Seconds from now until it has come in nine of ten cases; None as above, and where so many are
    not expected to come back at all."""


class Prefetched(_Wire, frozen=True):
    """How a prefetch ended."""

    session: SessionKey
    tokens: int
    complete: bool


class Dropped(_Wire, frozen=True):
    """What a drop freed."""

    session: SessionKey
    known: bool
    chunks: int = 0
    bytes: int = 0
    key_destroyed: bool = False
    """Whether the session's encryption key existed and is durably destroyed. False where
    encryption is off or the session had nothing on SSD."""


class SessionList(_Wire, frozen=True):
    """Every session of which the engine holds at least one chunk in some tier."""

    sessions: list[SessionKv]


class Report(_Wire, frozen=True):
    """The report asked for, or None when the request is not known (any more)."""

    report: KvReport | None


class Pinned(_Wire, frozen=True):
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


class BrokenPins(_Wire, frozen=True):
    """In the order in which they were broken."""

    pins: list[BrokenPin]


class TenantBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one tenant's sessions hold, a chunk that several of them share counted once."""

    tenant: str
    by_tier: dict[Tier, int]
    pinned_by_tier: dict[Tier, int] = {}


class Usage(_Wire, frozen=True):
    """Every tenant that holds anything."""

    tenants: list[TenantBytes]


class Pulse(_Wire, frozen=True):
    """When the engine wants to be asked again. The newest one counts."""

    next_in_s: float | None
    """``Poll`` is due in so many seconds at the latest; None: not before something happens."""


class Foresight(_Wire, frozen=True):
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


class Done(_Wire, frozen=True):
    """A command without a result is done."""


class Failure(_Wire, frozen=True):
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

_commands = msgspec.msgpack.Decoder(Command)
_replies = msgspec.msgpack.Decoder(Reply)


def encode(message: Command | Reply) -> bytes:
    """Either direction, to bytes."""
    return msgspec.msgpack.encode(message)


def decode_command(data: bytes) -> Command:
    """Raises ``msgspec.ValidationError`` for what is not a command of this version."""
    return cast(Command, _commands.decode(data))


def decode_reply(data: bytes) -> Reply:
    """Raises ``msgspec.ValidationError`` for what is not a reply of this version."""
    return cast(Reply, _replies.decode(data))
