"""What the API process asks and tells the engine."""

from cache_tiers.hints.wire import Wire
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey, Tier


class GetInfo(Wire, frozen=True):
    """Ask for ``EngineInfo``."""


class GetStatus(Wire, frozen=True):
    """Ask for a session's ``SessionKv``."""

    session: SessionKey


class Park(Wire, frozen=True):
    """Complete the SSD copy of a session, then free its device blocks and DRAM chunks that no
    session in use holds. Replied to with ``SessionKv`` when the copy is complete."""

    session: SessionKey


class Prefetch(Wire, frozen=True):
    """Bring a session's chunks up to ``tier``, dram or device, as far as there is room. An engine
    whose chunks are not single blocks goes no further than dram."""

    session: SessionKey
    tier: Tier = Tier.DRAM
    deadline_ms: int = 10_000


class Drop(Wire, frozen=True):
    """Forget a session; chunks that no other session holds leave every tier."""

    session: SessionKey


class ListSessions(Wire, frozen=True):
    """Ask for ``SessionList``."""


class TakeReport(Wire, frozen=True):
    """Ask for the ``KvReport`` of a request whose final output did not carry one."""

    request_id: str


class Flush(Wire, frozen=True):
    """Wait until every chunk on its way to the SSD is there."""


class Pin(Wire, frozen=True):
    """Claim a session's chunks in ``tier``, those that are there now and those that its turns bring
    there, for ``ttl_s`` from now; replaces an earlier pin of the same session and tier. A lease:
    under pressure the oldest are broken, which ``TakeBroken`` tells. Replied to with ``Pinned``."""

    session: SessionKey
    tier: Tier
    ttl_s: int


class Unpin(Wire, frozen=True):
    """End a session's pin of ``tier``, or of every tier when it is None. Replied to with
    ``Done``."""

    session: SessionKey
    tier: Tier | None = None


class TakeBroken(Wire, frozen=True):
    """Ask for ``BrokenPins`` since the last time."""


class Fork(Wire, frozen=True):
    """Give ``child`` the chunks of ``parent`` that lie within the first ``tokens`` (all when None):
    shared, nothing is copied. A child that exists already is replaced. Replied to with
    ``SessionKv`` of the child."""

    parent: SessionKey
    child: SessionKey
    tokens: int | None = None


class Truncate(Wire, frozen=True):
    """Cut a session to its first ``tokens``. What lay behind is superseded: where no other session
    holds it, it is the first to go from every tier. Replied to with ``SessionKv``."""

    session: SessionKey
    tokens: int


class GetUsage(Wire, frozen=True):
    """Ask for ``Usage``."""


class TurnEnded(Wire, frozen=True):
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


class Arriving(Wire, frozen=True):
    """A request of the session has begun to arrive; nothing of it is read yet. Its chunks come up
    at once, as for a request that waits. Replied to with ``Pulse``, which waits for no load."""

    session: SessionKey


class Expect(Wire, frozen=True):
    """The client says, in the gap, that it will last so long from now. Replied to with
    ``Pulse``."""

    session: SessionKey
    expected_s: float | None
    """None: for as long as gaps of this tool last."""
    tool: str = ""
    """What it waits for; empty for what is known already."""


class Poll(Wire, frozen=True):
    """Do what is due. Replied to with ``Pulse``."""


Hint = TurnEnded | Arriving | Expect | Poll
"""What the engine may decide by, told at any time; it answers with a ``Pulse`` at once."""


class GetForesight(Wire, frozen=True):
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
