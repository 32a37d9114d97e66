"""How often it pays to hold what a session has until it is back."""

import math
from typing import Final

from cache_tiers.returns.types import Outlook

EARLY_SHARE: Final = 0.05
"""Of the returns still to come: so many are early, and a load that is to be there for the others
has to be over by then."""
_SHARES: Final = (EARLY_SHARE, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Of the returns still to come: the ends of the windows over which holding is judged."""
_SOON_S: Final = 0.1
"""Returns closer than this are not told apart."""


def return_rate(outlook: Outlook, away_s: float) -> float:
    """Returns a second of holding, for a session that has been away for ``away_s``: the best over
    all times until which it may be held (``cache_tiers/importance.py``)."""
    best = outlook.hazard(away_s)
    held_s, since_s, left = 0.0, away_s, 1.0
    for share in _SHARES:
        until_s = outlook.quantile(share, away_s)
        if until_s == math.inf:
            break
        alive = 1.0 - share
        held_s += max(0.0, until_s - since_s) * (left + alive) / 2
        since_s, left = until_s, alive
        best = max(best, share / max(held_s, _SOON_S))
    return min(best, 1 / _SOON_S)
