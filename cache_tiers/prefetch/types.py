"""What a prefetch planner is told and what it answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.types import SessionKey


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A session that is away and of whose chain the tier holds only the beginning. In chunks."""

    session: SessionKey
    here: int
    """Leading chunks in the tier, those included that are on their way there."""
    chunks: int
    """Of the chain, as far as the tiers below can give it."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring a session's leading chunks up until ``upto`` of them are in the tier."""

    session: SessionKey
    upto: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to ask again at the latest."""

    fetches: Sequence[Fetch] = ()
    """The most urgent first. Those under way that are not among them are to be cancelled."""
    next_at: float | None = None
    """Seconds of the caller's clock; None for not before something changes."""


class Planner(Protocol):
    """Decides; moves nothing. Pure and deterministic, one thread. Asked whenever a turn begins or
    ends, a fetch is over, or ``next_at`` has come, as long as no request waits for a load."""

    def plan(self, shortfalls: Iterable[Shortfall], room: int, now: float) -> Plan:
        """``room``: chunks that the tier takes without a cut."""
        ...
