"""What was known of sessions at one moment, for a store that has to choose later. Immutable but for
the manifests, which any thread may read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.manifest import LEFT, Manifests
from cache_tiers.returns.rates import return_rate
from cache_tiers.returns.types import Outlook, Returns
from cache_tiers.returns.unknown import unknown_rate
from cache_tiers.types import SessionKey


@dataclass(frozen=True, slots=True)
class Away:
    """A session between two turns."""

    outlook: Outlook
    seconds: float
    """Since its last turn ended."""


def away_of(returns: Returns, sessions: Iterable[SessionKey], now: float) -> dict[SessionKey, Away]:
    """Those of the sessions whose return is predicted, and rightly as a rule; ``now`` as for
    ``returns``."""
    away = {}
    for session in sessions:
        since, outlook = returns.away_since(session), returns.outlook(session)
        if since is not None and outlook is not None and returns.trusts(session):
            away[session] = Away(outlook, max(0.0, now - since))
    return away


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Noted in a moment on the thread that knows; ``expectation`` is for the one that chooses."""

    manifests: Manifests
    """What sessions hold; also what they put aside, which is as a session of its own that nothing
    is known of."""
    away: Mapping[SessionKey, Away]
    running: frozenset[SessionKey]
    """Sessions whose turns run."""
    above: Mapping[SessionKey, int]
    """Leading chunks that tiers above the store have, where that matters (``ChunkStore.torn``)."""
    price: Price
    now: float
    """Seconds of the clock by which the manifests and the store count."""

    def expectation(self) -> Expectation:
        """Some 30 µs a session."""
        return Expectation(tuple(self._stakes()), self.price, self.now)

    def _stakes(self) -> Iterator[Stake]:
        for session in self.manifests.sessions():
            chain = self.manifests.get(session)
            if chain and not session.endswith(LEFT):
                above = self.above.get(session, 0)
                yield Stake(session, chain, above, self._rate(session))

    def _rate(self, session: SessionKey) -> float:
        """One whose turn runs is as one whose turn has just ended; where a session is not known to
        be away, as after a restart, or is for longer than was thought possible, recency decides."""
        if session in self.running:
            return unknown_rate(0.0)
        away = self.away.get(session)
        if away is not None and (rate := return_rate(away.outlook, away.seconds)) > 0.0:
            return rate
        last_used = self.manifests.last_used(session)
        return 0.0 if last_used is None else unknown_rate(self.now - last_used)
