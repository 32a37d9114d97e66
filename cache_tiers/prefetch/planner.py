"""What to bring up before anybody asks for it."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.importance import Importance
from cache_tiers.prefetch.types import Fetch, Plan, Shortfall
from cache_tiers.types import SessionKey

MARGIN = 2.0
"""What comes must be worth so many times what goes for it. Two sessions would have to differ by its
square to change places twice; see docs/decisions/0013."""
_AGAIN_S = 0.25
"""Plans are not made anew sooner, unless something happens."""


class _Wanted(NamedTuple):
    worth: float
    session: SessionKey
    here: int
    upto: int


class DeadlinePlanner:
    """``Planner``: fetches what is worth more here than what goes for it.

    Free room is used first. For more, others go that are worth clearly less, by ``margin``. What a
    load is worth rises until its session is expected back just after it, and falls when that is
    overdue: so it begins in time, and is cancelled when it was wrong. One under way goes on until
    it is worth less than what goes for it. The end of a chain that loads within the lead is left
    where it is, so where a whole chain does, nothing is fetched.

    ``order`` is the policy of the same tier, and names what would go.
    """

    def __init__(
        self, importance: Importance, order: ByImportance, *, margin: float = MARGIN
    ) -> None:
        self._importance = importance
        self._order = order
        self._margin = margin
        self._under_way: frozenset[SessionKey] = frozenset()

    def plan(self, shortfalls: Iterable[Shortfall], room: int, now: float) -> Plan:
        """See ``Planner``."""
        wanted = []
        next_at = math.inf
        for shortfall in shortfalls:
            session, here = shortfall.session, shortfall.here
            worth = self._importance.of(session, shortfall.chunks, now)
            if worth.needed > here and worth.held > 0 and not worth.by_recency:
                next_at = min(next_at, worth.until)
                if worth.loading > 0:
                    wanted.append(_Wanted(worth.loading, session, here, worth.needed))
        wanted.sort(key=lambda each: (-each.worth, each.session))
        fetches = self._grant(wanted, max(0, room), now)
        self._under_way = frozenset(fetch.session for fetch in fetches)
        return Plan(fetches, None if next_at == math.inf else max(next_at, now + _AGAIN_S))

    def _grant(self, wanted: list[_Wanted], room: int, now: float) -> list[Fetch]:
        """Room for each, the most worth first: what is free, then what is worth the least."""
        ranked = self._order.ranked(now)
        room += sum(each.held - each.needed for each in ranked)
        left = {each.session: each.needed for each in ranked}
        victims = [each for each in reversed(ranked) if each.needed]
        displaced = set()
        fetches = []
        for each in wanted:
            if each.session in displaced:
                continue
            margin = 1.0 if each.session in self._under_way else self._margin
            upto = min(each.upto, each.here + room)
            room -= upto - each.here
            while upto < each.upto and victims and victims[-1].worth * margin < each.worth:
                victim = victims[-1].session
                taken = min(each.upto - upto, left[victim]) if victim != each.session else 0
                if taken:
                    displaced.add(victim)
                left[victim] -= taken
                upto += taken
                if not taken or not left[victim]:
                    victims.pop()
            if upto > each.here:
                fetches.append(Fetch(each.session, upto))
        return fetches
