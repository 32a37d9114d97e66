"""What is worth the least goes first (``cache_tiers/importance.py``)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.importance import Importance, Worth
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


_Ranking = list[tuple[Worth, SessionKey, _Chain]]
_SAME_S = 0.1
"""An order is used for so long while no turn ends and nothing comes."""


class ByImportance:
    """``PrefixPolicy``. First the ends of chains that load within the lead, for they are worth
    nothing; then whole chains. The least worth first, among equals the longest unused.

    One pass over the idle sessions, at most once in a tenth of a second while no turn ends and
    nothing comes.
    """

    def __init__(self, importance: Importance) -> None:
        self._importance = importance
        self._chains: dict[SessionKey, _Chain] = {}
        """The longest unused first."""
        self._ranking: _Ranking = []
        self._ranked_until = -math.inf

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._chain(session).busy = True
        self._importance.forget(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        chain = self._chain(session)
        chain.busy, chain.chunks = False, chunks
        self._chains[session] = self._chains.pop(session)
        self._ranked_until = -math.inf

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        chain = self._chain(session)
        if not chain.held:
            self._ranked_until = -math.inf
        chain.held = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._chains.pop(session, None)
        self._importance.forget(session)
        self._ranked_until = -math.inf

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
        if now >= self._ranked_until:
            self._ranking = self._rank(now)
            self._ranked_until = now + _SAME_S
        return [
            Held(worth.held, session, chain.held, min(chain.held, worth.needed))
            for worth, session, chain in self._ranking
            if chain.held and not chain.busy
        ]

    def _rank(self, now: float) -> _Ranking:
        idle = [(s, chain) for s, chain in self._chains.items() if chain.held and not chain.busy]
        of = self._importance.of
        ranking = [(of(s, max(chain.chunks, chain.held), now), s, chain) for s, chain in idle]
        ranking.sort(key=lambda each: each[0].held)
        return ranking

    def _chain(self, session: SessionKey) -> _Chain:
        chain = self._chains.get(session)
        if chain is None:
            chain = self._chains[session] = _Chain()
        return chain
