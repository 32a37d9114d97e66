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
        every_s: float,
    ) -> None:
        """``below``: leading chunks of a session that the tiers below can give. ``every_s``: plans
        are made at most so often."""
        self._every_s = every_s
        self._due = False
        """Something happened that a plan may depend on."""
        self._may_at = 0.0
        """When the next plan may be made."""
        self._planner = planner
        self._link = link
        self._sessions = sessions
        self._below = below
        self._schedule = schedule
        self._serial = 0

    def changed(self) -> None:
        """A turn begins or ends, or a request has what it waited for."""
        self._due = True

    def settle(self, now: float) -> None:
        """Let what can go on go on; plan if that is due and nobody waits for a load."""
        link = self._link
        link.go(now)
        if self._planner is None or not (self._due or link.over) or link.demanded:
            return
        self._due = link.over = False
        if now < self._may_at:
            self._wake(self._may_at)
            return
        self._may_at = now + self._every_s
        link.sync(now)
        plan = self._planner.plan(self._shortfalls(), int(max(0, link.tier.room)), now)
        link.fetch([(self._sessions[each.session], each.upto) for each in plan.fetches], now)
        if plan.next_at is not None:
            self._wake(max(plan.next_at, self._may_at))
        link.go(now)

    def _wake(self, at: float) -> None:
        """Plan then, if not before; an older wish is forgotten."""
        self._serial += 1
        serial = self._serial

        def wake(_: float) -> None:
            if serial == self._serial:
                self._due = True

        self._schedule(at, wake)

    def _shortfalls(self) -> Iterator[Shortfall]:
        level = self._link.tier.level
        for session in self._sessions.values():
            if not session.locked:
                chunks = self._below(session)
                here = session.claimed[level]
                if here < chunks:
                    yield Shortfall(session.key, here, chunks)
