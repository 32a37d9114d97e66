"""The offline optimum, as near as a rule comes to it: it knows when each session is back.

What is kept is what is needed next, as far as it fits: the end of the chain that is needed
furthest in the future goes first (Belady 1966; with sizes, and chains that are cut anywhere, what
is cut is a fraction, for which the rule stays the best where nothing can be brought back). What is
missing is brought back earliest deadline first (Horn 1974: no other order of one link meets more),
as late as the link allows, with a margin, or earlier into room that is free; it displaces only what
is needed later. A part of a chain that the next request does not go on
from goes before everything else.

With bandwidth it is a heuristic and no bound: which of two needs to drop when the link is too slow
for both, it decides by time alone. ``tests/unit/test_simulate_clairvoyant.py`` holds it against
exact optima of small instances. It is told the future by a simulation (``Foresight``), one request
ahead: of a turn under way it does not know the end.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cache_tiers.costs import Costs
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


class Clairvoyant:
    """``PrefixPolicy``, ``Planner`` and ``Foresight`` in one."""

    def __init__(self, costs: Costs, margin_s: float = 2.0) -> None:
        """``margin_s``: for loads of requests that come between."""
        self._costs = costs
        self._margin_s = margin_s
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
        idle = [(k.next_at, s, k) for s, k in self._known.items() if k.held and not k.busy]
        for _, session, known in idle:
            if known.held > known.needed:
                yield Cut(session, known.needed)
        idle.sort(key=lambda each: each[0], reverse=True)
        for _, session, known in idle:
            if known.held:
                yield Cut(session, 0)

    def plan(self, shortfalls: Iterable[Shortfall], room: int, now: float) -> Plan:
        """See ``Planner``."""
        wanted = []
        for shortfall in shortfalls:
            known = self._of(shortfall.session)
            upto = min(shortfall.chunks, known.needed)
            if upto > shortfall.here and known.next_at < math.inf:
                wanted.append((known.next_at, shortfall.session, upto, shortfall.here))
        wanted.sort()
        begin_at = math.inf
        for next_at, _, upto, here in reversed(wanted):
            begin_at = min(begin_at, next_at) - self._costs.load_s(upto - here)
        begin_at -= self._margin_s
        if begin_at <= now:
            return Plan([Fetch(session, upto) for _, session, upto, _ in wanted])
        fetches = []
        for _, session, upto, here in wanted:
            granted = min(room, upto - here)
            if granted > 0:
                fetches.append(Fetch(session, here + granted))
                room -= granted
        return Plan(fetches, None if begin_at == math.inf else begin_at)

    def _of(self, session: SessionKey) -> _Known:
        known = self._known.get(session)
        if known is None:
            known = self._known[session] = _Known()
        return known
