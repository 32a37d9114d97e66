"""Asks a planner what to bring up, and has a link do it."""

from collections.abc import Callable, Iterator, Mapping

from cache_tiers.prefetch.types import Planner, Shortfall
from cache_tiers.types import SessionKey
from load.simulate.chains import Session
from load.simulate.link import Link, Schedule


class Prefetcher:
    """Of one tier."""

    def __init__(
        self,
        planner: Planner | None,
        link: Link,
        sessions: Mapping[SessionKey, Session],
        below: Callable[[Session], int],
        schedule: Schedule,
    ) -> None:
        """``below``: leading chunks of a session that the tiers below can give."""
        self.due = False
        """Something happened that a plan may depend on."""
        self._planner = planner
        self._link = link
        self._sessions = sessions
        self._below = below
        self._schedule = schedule
        self._serial = 0

    def settle(self, now: float) -> None:
        """Let what can go on go on; plan if that is due and nobody waits for a load."""
        link = self._link
        link.go(now)
        if self._planner is None or not (self.due or link.over) or link.demanded:
            return
        self.due = link.over = False
        link.sync(now)
        plan = self._planner.plan(self._shortfalls(), int(max(0, link.tier.room)), now)
        link.fetch([(self._sessions[each.session], each.upto) for each in plan.fetches], now)
        self._serial += 1
        if plan.next_at is not None:
            serial = self._serial
            self._schedule(max(now, plan.next_at), lambda _: self._wake(serial))
        link.go(now)

    def _wake(self, serial: int) -> None:
        if serial == self._serial:
            self.due = True

    def _shortfalls(self) -> Iterator[Shortfall]:
        level = self._link.tier.level
        for session in self._sessions.values():
            if not session.locked:
                chunks = self._below(session)
                here = session.claimed[level]
                if here < chunks:
                    yield Shortfall(session.key, here, chunks)
