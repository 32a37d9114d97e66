"""How the fake engine looks ahead: the real predictions, over KV that is moved at once."""

import math
from dataclasses import dataclass, field, replace

from cache_tiers.hints import Arriving, Expect, Foresight, Hint, Poll, Pulse, TurnEnded
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import SessionKey
from engine.fake_cache import CHUNK_BYTES, FakeCache

_EARLY = 0.1
"""A session is fetched when so many of its like are back."""


@dataclass(slots=True)
class FakeForesight:
    """Takes hints. ``now`` is in seconds of the engine's clock."""

    cache: FakeCache
    _returns: EmpiricalReturns = field(default_factory=EmpiricalReturns)
    _away: dict[SessionKey, TurnEnd] = field(default_factory=dict)

    def take(self, hint: Hint, now: float) -> Pulse:
        """Do what follows from a hint, and say when to ask again."""
        match hint:
            case TurnEnded(session, awaits, tool, turn, hour, expected_s):
                end = TurnEnd(
                    session=session,
                    awaits=awaits,
                    tool=tool,
                    turn=turn,
                    hour=hour,
                    expected_s=expected_s,
                )
                self._leaves(end, now)
            case Arriving(session):
                self.cache.prefetch(session)
            case Expect(session, expected_s, tool):
                if (known := self._away.get(session)) is not None:
                    if tool:
                        known = replace(known, awaits=Awaits.TOOL, tool=tool)
                    self._leaves(replace(known, expected_s=expected_s), now)
            case Poll():
                pass
        return self._do_what_is_due(now)

    def returned(self, session: SessionKey, now: float) -> None:
        """A request of the session is here."""
        if self._away.pop(session, None) is not None:
            self._returns.returned(session, now)

    def forget(self, session: SessionKey, now: float) -> None:
        """The session is gone."""
        if self._away.pop(session, None) is not None:
            self._returns.forget(session, now)

    def back(self, session: SessionKey, share: float, now: float) -> float | None:
        """Seconds until the session is back with the chance ``share``; None for never, and for one
        that is not away."""
        outlook, since = self._returns.outlook(session), self._returns.away_since(session)
        if outlook is None or since is None:
            return None
        left = since + outlook.quantile(share, now - since) - now
        return max(0.0, left) if math.isfinite(left) else None

    def foresight(self) -> Foresight:
        """How all this went."""
        fit = self._returns.calibration()
        return Foresight(
            distrusted_tenants=self._returns.distrusted,
            gaps=fit.gaps,
            within={"10": fit.before_10, "50": fit.before_50, "90": fit.before_90},
            ks=fit.distance,
            shifts=self._returns.shifts,
            prefetched_chunks=self.cache.fetched,
            used_chunks=self.cache.used,
            late_chunks=0,
            wasted_bytes=self.cache.wasted * CHUNK_BYTES,
            lead_s=0.0,
        )

    def _leaves(self, end: TurnEnd, now: float) -> None:
        self._away[end.session] = end
        self._returns.ended(end, now)

    def _do_what_is_due(self, now: float) -> Pulse:
        next_in_s: float | None = None
        for session in self._away:
            outlook, since = self._returns.outlook(session), self._returns.away_since(session)
            if outlook is None or since is None or not self.cache.below_dram(session):
                continue
            left = since + outlook.quantile(_EARLY) - now
            if left <= 0:
                self.cache.prefetch(session)
            elif math.isfinite(left):
                next_in_s = left if next_in_s is None else min(next_in_s, left)
        return Pulse(next_in_s)
