"""The offline optimum, as near as a rule comes to it: it knows when each session is back.

What is kept is what is needed next, as far as it fits: the end of the chain that is needed
furthest in the future goes first (Belady 1966; of chains that are cut anywhere a fraction goes,
for which the rule is best where nothing can be brought back). What is missing is brought back
earliest deadline first (Horn 1974: no other order of one link meets more), at once, displacing only
what is needed later. What the next request does not go on from goes before everything else.

With bandwidth it is a heuristic, and no bound: on random small instances it has 97 % of what is
possible (``tests/unit/test_simulate_clairvoyant.py`` tries all decisions). A simulation tells it
the future (``Foresight``) one request ahead: of a turn under way it does not know the end, nor of a
session that has not begun.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.prefetch.types import Fetch, Plan, Shortfall
from cache_tiers.types import SessionKey


@dataclass(slots=True)
class _Known:
    next_at: float = math.inf
    needed: int = 0
    """Leading chunks that the next request begins with."""
    held: int = 0
    busy: bool = False


@dataclass(frozen=True, slots=True, order=True)
class _Wanted:
    """What of a session is to be brought back by when."""

    next_at: float
    session: SessionKey
    here: int
    upto: int


class Clairvoyant:
    """``PrefixPolicy``, ``Planner`` and ``Foresight`` in one."""

    def __init__(self) -> None:
        self._known: dict[SessionKey, _Known] = {}

    def foresee(self, session: SessionKey, at: float, chunks: int) -> None:
        """See ``Foresight``."""
        known = self._of(session)
        known.next_at, known.needed = at, chunks

    def began(self, session: SessionKey, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._of(session).busy = True

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._of(session).busy = False

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        self._of(session).held = chunks

    def forget(self, session: SessionKey) -> None:
        """See ``PrefixPolicy``."""
        self._known.pop(session, None)

    def victims(self, now: float) -> Iterator[Cut]:  # noqa: ARG002
        """See ``PrefixPolicy``."""
        ranked = self._ranked()
        for session, known in ranked:
            if known.held > known.needed:
                yield Cut(session, known.needed)
        for session, known in ranked:
            if known.held:
                yield Cut(session, 0)

    def plan(self, shortfalls: Iterable[Shortfall], room: int, now: float) -> Plan:  # noqa: ARG002
        """See ``Planner``."""
        wanted = []
        for shortfall in shortfalls:
            known = self._of(shortfall.session)
            upto = min(shortfall.chunks, known.needed)
            if upto > shortfall.here and known.next_at < math.inf:
                wanted.append(_Wanted(known.next_at, shortfall.session, shortfall.here, upto))
        wanted.sort()
        return Plan(self._grant(wanted, room))

    def _grant(self, wanted: list[_Wanted], room: int) -> list[Fetch]:
        """Room for each, the most urgent first: what is free, what nobody needs, and what is needed
        later than it."""
        victims = [(known, s, min(known.held, known.needed)) for s, known in self._ranked()]
        room += sum(known.held - needed for known, _, needed in victims)
        victims.reverse()
        displaced = set()
        fetches = []
        for each in wanted:
            if each.session in displaced:
                continue
            missing = each.upto - each.here
            while room < missing and victims and victims[-1][0].next_at > each.next_at:
                _, session, needed = victims.pop()
                displaced.add(session)
                room += needed
            chunks = min(room, missing)
            room -= chunks
            if chunks > 0:
                fetches.append(Fetch(each.session, each.here + chunks))
        return fetches

    def _ranked(self) -> list[tuple[SessionKey, _Known]]:
        """Idle sessions that have something here, the one that is back last first."""
        idle = [(s, known) for s, known in self._known.items() if known.held and not known.busy]
        idle.sort(key=lambda each: each[1].next_at, reverse=True)
        return idle

    def _of(self, session: SessionKey) -> _Known:
        known = self._known.get(session)
        if known is None:
            known = self._known[session] = _Known()
        return known
