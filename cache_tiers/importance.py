"""What it is worth to a tier to have a chunk: one score for eviction and prefetch, on DRAM and SSD.

The score is a rate: seconds of waiting saved for each second that the chunk is there, per chunk.

    worth = return rate × loss per chunk

**Return rate**, per second: how often holding the session's chunks pays. A session that has been
away for ``a`` seconds and is held until ``b`` is back by then with the chance ``S(a) − S(b)``, and
its chunks take their room for ``∫ S`` from ``a`` to ``b``. The rate is the best such quotient over
all ``b``: the index of Gittins (1979) for a job that ends with the session's return. Where the
hazard falls, as it mostly does, that is the hazard now, and within one class the longest away goes
first, as in LRU. Where it rises (a tool that takes a minute, a gap that the client announced) it
looks ahead to the hazard's peak, divided by the time that the room is taken until then. What goes
cannot be back before it is loaded again, so windows that begin within that time count as if they
began now.

**Loss**, in seconds: how much longer the session's next request waits without these chunks. Loaded,
where the tier below has them and that is faster; computed at their position otherwise, which makes
late tokens dearer (``prefill_cost.py``). What is loaded before anybody asks for it
(``Costs.lead_s``) is no loss: the end of a chain that loads within the lead is worth nothing here.

The other sources: a chunk of several sessions pays whenever any of them is back, so their worths
add up; what a history has left behind (``supersession.py``) is worth nothing; what is leased
(``pins.py``) is worth more than all that is not; where attention weights are known, they scale what
is left. Recency decides among equals, and alone while the predictions do not fit
(``Returns.trusted``).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cache_tiers.costs import Costs
from cache_tiers.returns.types import Outlook, Returns
from cache_tiers.types import SessionKey, Standing

_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Of the returns still to come: the ends of the windows over which holding is judged."""
_SOON_S = 0.1
"""Returns closer than this are not told apart."""
_FRESH_S = 0.25
_FRESH_SHARE = 0.1
"""A worth is used for this share of the time away, at least for ``_FRESH_S``: hazards change on a
logarithmic scale. Not beyond the moment at which a load has to begin, though."""
_PRICED_S = 1.0
"""Costs are looked at so often."""
_MOST_CHUNKS = 1 << 24
"""More than any chain has."""


def return_rate(outlook: Outlook, away_s: float, ahead_s: float = 0.0) -> float:
    """Returns a second of holding, for a session away for ``away_s`` that could be brought back in
    ``ahead_s``. See the module's docstring."""
    times, alive = [0.0], [1.0]
    for share in _SHARES:
        at_s = outlook.quantile(share, away_s) - away_s
        if at_s == math.inf:
            break
        times.append(max(at_s, times[-1]))
        alive.append(1.0 - share)
    best = outlook.hazard(away_s)
    for first in range(len(times) - 1):
        if times[first] > ahead_s and first:
            break
        held_s = 0.0
        for end in range(first + 1, len(times)):
            step_s = times[end] - times[end - 1]
            held_s += step_s * (alive[end] + alive[end - 1]) / 2
            best = max(best, (alive[first] - alive[end]) / max(held_s, _SOON_S * alive[first]))
    return min(best, 1 / _SOON_S)


def chunk_worth(standing: Standing, worths: Iterable[float], attention: float = 1.0) -> float:
    """Of a chunk, from the worths of the sessions whose chains go through it. ``attention``: the
    share of attention that it gets, relative to an average chunk, where an index of it exists."""
    if standing is Standing.SUPERSEDED:
        return 0.0
    return math.inf if standing is Standing.PINNED else attention * sum(worths)


@dataclass(frozen=True, slots=True)
class _Worth:
    value: float
    chunks: int
    away_since: float
    until: float


class Importance:
    """The worth of sessions' chunks to one tier. One thread; ``now`` as for ``returns``.

    ``below`` tells how many leading chunks of a session the tier below has; without it, all. For
    the lowest tier it is always 0: what goes there is computed again.
    """

    def __init__(
        self,
        returns: Returns,
        costs: Costs,
        *,
        chunk_tokens: int,
        below: Callable[[SessionKey], int] | None = None,
    ) -> None:
        self._returns = returns
        self._costs = costs
        self._chunk_tokens = chunk_tokens
        self._below = below
        self._worths: dict[SessionKey, _Worth] = {}
        self._within_lead = 0
        self._priced_until = -math.inf

    @property
    def trusted(self) -> bool:
        """Whether to decide by it; else by recency."""
        return self._returns.trusted

    def worth(self, session: SessionKey, chunks: int, now: float) -> float:
        """Of each needed chunk of the session's ``chunks``: seconds saved a second. 0 when nothing
        is known of its return."""
        known = self._worths.get(session)
        since = self._returns.away_since(session)
        if (
            known is not None
            and now < known.until
            and known.chunks == chunks
            and known.away_since == since
        ):
            return known.value
        outlook = self._returns.outlook(session)
        needed = self.needed(session, chunks, now)
        if since is None or outlook is None or not needed:
            self._worths.pop(session, None)
            return 0.0
        away_s = max(0.0, now - since)
        loss_s = self._loss_s(self._reach(session, chunks), chunks)
        value = return_rate(outlook, away_s, loss_s) * loss_s / needed
        fresh_s = max(_FRESH_S, _FRESH_SHARE * away_s)
        due_s = outlook.quantile(_SHARES[0], away_s) - away_s - loss_s
        if due_s > 0:
            fresh_s = max(_SOON_S, min(fresh_s, due_s))
        self._worths[session] = _Worth(value, chunks, since, now + fresh_s)
        return value

    def needed(self, session: SessionKey, chunks: int, now: float) -> int:
        """Leading chunks whose absence would be felt; those behind load within the lead."""
        if now >= self._priced_until:
            self._price(now)
        if self._below is not None and self._below(session) < chunks:
            return chunks
        return max(0, chunks - self._within_lead)

    def changes_at(self, session: SessionKey) -> float:
        """Until when its worth is taken from memory; ``math.inf`` for one that has none."""
        known = self._worths.get(session)
        return math.inf if known is None else known.until

    def forget(self, session: SessionKey) -> None:
        """The session is not away, or gone."""
        self._worths.pop(session, None)

    def _reach(self, session: SessionKey, chunks: int) -> int:
        return chunks if self._below is None else min(chunks, self._below(session))

    def _loss_s(self, reach: int, chunks: int) -> float:
        """How long a request waits for ``chunks``, none of which is here, but ``reach`` below."""
        costs, middle, end = self._costs, reach * self._chunk_tokens, chunks * self._chunk_tokens
        load_s = max(0.0, costs.load_s(reach) - costs.lead_s)
        return min(load_s, costs.compute_s(0, middle)) + costs.compute_s(middle, end)

    def _price(self, now: float) -> None:
        """Look at the costs anew."""
        self._priced_until = now + _PRICED_S
        lead_s = self._costs.lead_s
        low, high = 0, 1
        while high < _MOST_CHUNKS and self._costs.load_s(high) <= lead_s:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self._costs.load_s(middle) <= lead_s:
                low = middle
            else:
                high = middle
        self._within_lead = low
