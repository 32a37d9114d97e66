"""What is worth the least goes first (``cache_tiers/importance.py``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.importance import Importance
from cache_tiers.types import SessionKey


class Held(NamedTuple):
    """What an idle session has in the tier."""

    worth: float
    """Of each needed chunk: seconds saved a second."""
    session: SessionKey
    held: int
    """Leading chunks in the tier."""
    needed: int
    """Those of them whose absence would be felt; the others are worth nothing."""


@dataclass(slots=True)
class _Chain:
    chunks: int = 0
    held: int = 0
    busy: bool = False


class ByImportance:
    """``PrefixPolicy``. First the ends of chains that load within the lead, for they are worth
    nothing; then whole chains. The least worth first, among equals the longest unused; all by
    recency, as LRU does, while predictions do not fit.

    One pass over the idle sessions for every call of ``victims``.
    """

    def __init__(self, importance: Importance) -> None:
        self._importance = importance
        self._chains: dict[SessionKey, _Chain] = {}
        """The longest unused first."""

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._chain(session).busy = True
        self._importance.forget(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        chain = self._chain(session)
        chain.busy, chain.chunks = False, chunks
        self._chains[session] = self._chains.pop(session)

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._chain(session).held = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._chains.pop(session, None)
        self._importance.forget(session)

    def victims(self, now: float) -> Iterator[Cut]:
        """See ``PrefixPolicy``."""
        ranked = self.ranked(now)
        for each in ranked:
            if each.needed < each.held:
                yield Cut(each.session, each.needed)
        for each in ranked:
            if each.needed:
                yield Cut(each.session, 0)

    def ranked(self, now: float) -> list[Held]:
        """What idle sessions have in the tier, the least worth first."""
        idle = [
            (session, chain)
            for session, chain in self._chains.items()
            if chain.held and not chain.busy
        ]
        if not self._importance.trusted:
            return [Held(0.0, session, chain.held, chain.held) for session, chain in idle]
        held = [self._value(session, chain, now) for session, chain in idle]
        held.sort(key=attrgetter("worth"))
        return held

    def _value(self, session: SessionKey, chain: _Chain, now: float) -> Held:
        chunks = max(chain.chunks, chain.held)
        needed = min(chain.held, self._importance.needed(session, chunks, now))
        worth = self._importance.worth(session, chunks, now)
        return Held(worth, session, chain.held, needed)

    def _chain(self, session: SessionKey) -> _Chain:
        chain = self._chains.get(session)
        if chain is None:
            chain = self._chains[session] = _Chain()
        return chain
