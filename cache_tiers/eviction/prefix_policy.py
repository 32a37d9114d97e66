"""The question a tier of prefixes asks when it needs room: whose end goes first?

A tier holds the beginnings of sessions' chains. A chunk is useless without all before it, so a
chain is only ever cut from its end. A policy names the chain to cut and how far; the tier does it,
skips what is in use or pinned or what another session's chain goes on from, and stops when it has
room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.types import SessionKey


@dataclass(frozen=True, slots=True)
class Cut:
    """Shorten a session's chain in the tier to its first ``keep`` chunks, or as far as room is
    needed."""

    session: SessionKey
    keep: int


class PrefixPolicy(Protocol):
    """Pure and deterministic: no I/O, no clock, the same calls give the same cuts. One thread.
    ``now`` is in seconds and does not go back. Sizes are in chunks."""

    def began(self, session: SessionKey, now: float) -> None:
        """A turn of the session begins. It is not cut until the turn has ended."""
        ...

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:
        """The turn is over; the session's chain is ``chunks`` long now."""
        ...

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:
        """So many leading chunks of the session's chain are in the tier from now on; 0 when it has
        left. Told after every change: a store, a load, a cut."""
        ...

    def forget(self, session: SessionKey) -> None:
        """The session is gone for good."""
        ...

    def victims(self, now: float) -> Iterator[Cut]:
        """Cuts in the order in which they are to be made, the least worth first. Together they
        reach every session that holds something and has no turn under way. The caller makes cuts,
        tells ``holds`` of each, and may stop at any time; it never resumes after other calls than
        ``holds``."""
        ...
