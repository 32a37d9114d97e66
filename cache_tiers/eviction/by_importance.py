"""What is worth the least goes first (``cache_tiers/importance.py``)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

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
    idle_since: float | None = None
    """When its last turn ended."""
    used: int = 0
    """Turns, of all sessions, that had ended by then."""


_Ranking = list[tuple[Worth, SessionKey, _Chain]]
_SAME_S: Final = 0.1
"""An order is used for so long while no turn ends and nothing comes."""
_MOST_EMPTY: Final = 65_536
"""Sessions with nothing in the tier of which the length is remembered, those used last."""


class ByImportance:
    """``PrefixPolicy``. First the ends of chains that load within the lead, for they are worth
    nothing; then whole chains. The least worth first, among equals the longest unused.

    One pass over the idle sessions, at most once in a tenth of a second while no turn ends and
    nothing comes.
    """

    def __init__(self, importance: Importance) -> None:
        self._importance = importance
        self._here: dict[SessionKey, _Chain] = {}
        """Those that have something in the tier, or whose turn runs."""
        self._empty: dict[SessionKey, _Chain] = {}
        """The others, the longest so first."""
        self._turns = 0
        self._ranking: _Ranking = []
        self._ranked_until = -math.inf

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        chain = self._take(session)
        chain.busy = True
        self._put(session, chain)
        self._importance.forget(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:
        """See ``PrefixPolicy``."""
        chain = self._take(session)
        self._turns += 1
        chain.busy, chain.chunks, chain.idle_since, chain.used = False, chunks, now, self._turns
        self._put(session, chain)
        self._ranked_until = -math.inf

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        chain = self._take(session)
        if not chain.held:
            self._ranked_until = -math.inf
        chain.held = chunks
        self._put(session, chain)

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._take(session)
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
        of = self._importance.of
        ranking = [
            (of(session, max(chain.chunks, chain.held), now, chain.idle_since), session, chain)
            for session, chain in self._here.items()
            if chain.held and not chain.busy
        ]
        ranking.sort(key=lambda each: (each[0].held, each[2].used))
        return ranking

    def _take(self, session: SessionKey) -> _Chain:
        """Out of its place."""
        return self._here.pop(session, None) or self._empty.pop(session, None) or _Chain()

    def _put(self, session: SessionKey, chain: _Chain) -> None:
        if chain.held or chain.busy:
            self._here[session] = chain
            return
        self._empty[session] = chain
        if len(self._empty) > _MOST_EMPTY:
            self.forget(next(iter(self._empty)))
