"""What it is worth to a tier to have a chunk: one score for eviction and prefetch, on every tier.

The score is a rate: seconds of waiting saved for each second that the chunk is there, per chunk.

    worth = return rate × loss / chunks

**Return rate**, per second: how often holding the session's chunks pays. A session that has been
away for ``a`` seconds and is held until ``b`` is back by then with the chance ``S(a) − S(b)``, and
its chunks take their room for ``∫ S`` from ``a`` to ``b``. The best such quotient over all ``b`` is
the index of Gittins (1979) for a job that ends with the session's return. Where the hazard falls,
as it mostly does, that is the hazard now, and within one class the longest away goes first, as in
LRU. Where it rises (a tool that takes a minute, a gap that the client announced) it looks ahead to
the hazard's peak, divided by the time that the room is taken until then.

What goes may come back, though, and need not be there before. So returns until shortly after a load
that begins now count in full (the **loading rate**: what is not here is worth that); those further
off count as often as a load will not be there for them, since the link is busy or others were worth
more then (``_NOT_BACK``). While a return is further off than a load takes, the load can wait.

**Loss**, in seconds: how much longer the session's next request waits without these chunks. Loaded,
where the tier below has them and that is faster; computed at their position otherwise, which makes
late tokens dearer (``prefill_cost.py``). What is loaded before anybody asks for it
(``Costs.lead_s``) is no loss: the end of a chain that loads within the lead is worth nothing here.

**Recency** is in the rate, and decides among equals. Where nothing is known of a return, where it
is overdue by all that is, and where predictions do not fit, recency is the rate
(``returns/unknown.py``), and nothing is loaded ahead, for nobody knows when. **Sharing,
supersession, pins**: a tier cuts what several sessions hold with the last of them, so it is worth
what it is worth to whom it is worth most; what a history has left behind (``supersession.py``) goes
before everything, and what is leased (``pins.py``) after everything (``Standing``). On SSD, where
segments go whole, the worths of those who share add up (``eviction/expectation.py``). **Attention**
does not tell chunks of one chain apart: exact attention reads them all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from cache_tiers.costs import Costs
from cache_tiers.returns.rates import EARLY_SHARE, return_rate
from cache_tiers.returns.types import Outlook, Returns
from cache_tiers.returns.unknown import unknown_rate
from cache_tiers.types import SessionKey

_NOT_BACK = 0.3
"""Measured (docs/decisions/0013): with less, more is read and brought up while the link has time;
with more, more is kept where it has none."""
_AFTER_S = 0.5
_AFTER_SHARE = 0.25
"""So much longer than its load, and this share of it: neither loads nor gaps take exactly as long
as expected."""
_FRESH_S = (0.25, 10.0)
_FRESH_SHARE = 0.1
"""A worth is used for this share of the time away, within these limits: hazards change on a
logarithmic scale. Where the return is predicted better than that, not beyond the moments at which
a load has to begin and at which the return is overdue."""
_RELIED_ON = 0.5
"""Of the lead: other loads run within it too, and some leads are shorter."""
_PRICED_S = 1.0
"""Costs are looked at so often."""
_MOST_CHUNKS = 1 << 24
"""More than any chain has."""


def loading_rate(outlook: Outlook, away_s: float, load_s: float) -> float:
    """Returns a second of holding until a load that takes ``load_s`` and begins now is over, and a
    little longer."""
    held_s = _until_after(load_s)
    there, alive = outlook.survival(away_s), outlook.survival(away_s + held_s)
    if there <= 0:
        return 0.0
    return (there - alive) / (held_s * (there + alive) / 2)


def _until_after(load_s: float) -> float:
    return load_s * (1 + _AFTER_SHARE) + _AFTER_S


def _fresh_s(wanted_s: float) -> float:
    return min(max(_FRESH_S[0], wanted_s), _FRESH_S[1])


class Worth(NamedTuple):
    """Of one session's chunks to a tier, for a while."""

    held: float = 0.0
    """Of each needed chunk that is here: seconds saved a second."""
    loading: float = 0.0
    """Of each that is not, if its load begins now. At most ``held``."""
    needed: int = 0
    """Leading chunks whose absence would be felt; those behind load within the lead."""
    until: float = math.inf
    """When to look again."""
    by_recency: bool = False
    """Whether no more is known of the return: nothing is to be loaded for it, now or later."""


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
        self._known: dict[SessionKey, tuple[Worth, int, float | None]] = {}
        """With the chain's length and the beginning of the gap that it is for."""
        self._within_lead = 0
        self._priced_until = -math.inf

    def of(
        self, session: SessionKey, chunks: int, now: float, idle_since: float | None = None
    ) -> Worth:
        """Of a session whose chain has so many chunks. ``idle_since``: when its last turn ended,
        which counts where no more is known."""
        known = self._known.get(session)
        since = self._returns.away_since(session)
        if known is not None:
            worth, of_chunks, of_gap = known
            if now < worth.until and of_chunks == chunks and of_gap == since:
                return worth
        worth = self._look(session, chunks, since, idle_since, now)
        self._known[session] = worth, chunks, since
        return worth

    def forget(self, session: SessionKey) -> None:
        """The session is not away, or gone."""
        self._known.pop(session, None)

    def _look(
        self,
        session: SessionKey,
        chunks: int,
        since: float | None,
        idle_since: float | None,
        now: float,
    ) -> Worth:
        if now >= self._priced_until:
            self._price(now)
        reach = chunks if self._below is None else min(chunks, self._below(session))
        needed = chunks if reach < chunks else max(0, chunks - self._within_lead)
        since = idle_since if since is None else since
        if since is None or not needed:
            return Worth(needed=needed, until=self._priced_until)
        away_s = max(0.0, now - since)
        loss_s = self._loss_s(reach, chunks)
        not_back = _NOT_BACK if reach == chunks else 1.0
        outlook = self._returns.outlook(session)
        if outlook is not None and self._returns.trusts(session):
            loading = loading_rate(outlook, away_s, loss_s)
            held = max(loading, not_back * return_rate(outlook, away_s))
            if held > 0.0:
                until = now + _fresh_s(
                    min(_FRESH_SHARE * away_s, outlook.quantile(0.5, away_s) - away_s)
                )
                due_at = since + outlook.quantile(EARLY_SHARE, away_s) - _until_after(loss_s)
                if now < due_at < until:
                    until = due_at
                chunk_s = loss_s / needed
                return Worth(held * chunk_s, loading * chunk_s, needed, until)
        worth = not_back * unknown_rate(away_s) * loss_s / needed
        until = now + _fresh_s(_FRESH_SHARE * away_s)
        return Worth(worth, needed=needed, until=until, by_recency=True)

    def _loss_s(self, reach: int, chunks: int) -> float:
        """How long a request waits for ``chunks``, none of which is here, but ``reach`` below."""
        costs, middle, end = self._costs, reach * self._chunk_tokens, chunks * self._chunk_tokens
        load_s = max(0.0, costs.load_s(reach) - _RELIED_ON * costs.lead_s)
        return min(load_s, costs.compute_s(0, middle)) + costs.compute_s(middle, end)

    def _price(self, now: float) -> None:
        """Look at the costs anew."""
        self._priced_until = now + _PRICED_S
        lead_s = _RELIED_ON * self._costs.lead_s
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
