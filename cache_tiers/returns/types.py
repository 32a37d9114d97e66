"""What is known when a turn ends, and what is asked about the gap that begins there."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cache_tiers.types import SessionKey


class Awaits(StrEnum):
    """Whom a session waits for when its turn has ended."""

    TOOL = "tool"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """A turn's end, as the gap after it is predicted from."""

    session: SessionKey
    awaits: Awaits
    tool: str = ""
    """Name of the tool that was called, of several the first; empty for none or an unknown one."""
    turn: int = 1
    """Turns of the session so far, this one included."""
    hour: int = 0
    """Of the day, 0 … 23, where the server is."""
    expected_s: float | None = None
    """How long the client said that the gap will last; 0 for back at once."""


class Outlook(Protocol):
    """How one gap is expected to go. Immutable; ``away_s`` counts seconds from the turn's end and
    is never negative."""

    def survival(self, away_s: float) -> float:
        """The chance (0 … 1) that the session is still away then, as seen from the turn's end."""
        ...

    def hazard(self, away_s: float) -> float:
        """The rate, per second, at which it comes back just then, given that it is still away."""
        ...

    def quantile(self, share: float, away_s: float = 0.0) -> float:
        """Seconds from the turn's end at which ``share`` (0 … 1) of those still away at ``away_s``
        are back; ``math.inf`` where so many are not expected to come back at all."""
        ...


class Returns(Protocol):
    """Outlooks of sessions that are away, learned from those that came back. One thread.

    ``now`` is in seconds of any clock that does not go back.
    """

    def ended(self, end: TurnEnd, now: float) -> None:
        """A turn has ended: its session is away from now on."""
        ...

    def returned(self, session: SessionKey, now: float) -> None:
        """The session's next request has come; learn from its gap."""
        ...

    def forget(self, session: SessionKey, now: float) -> None:
        """The session will not come back, or nobody asks any more: its gap was at least so long."""
        ...

    def outlook(self, session: SessionKey) -> Outlook | None:
        """Of a session that is away; None for others."""
        ...

    def trusts(self, session: SessionKey) -> bool:
        """Whether predictions of its tenant's gaps have fitted lately. While they do not, who
        decides by them has to go by recency instead (``unknown_rate``)."""
        ...

    def away_since(self, session: SessionKey) -> float | None:
        """When the gap began; None for a session that is not away."""
        ...
