"""How soon sessions are back of which nothing is known but when they were last there: recency, in
the unit in which predictions count."""

from itertools import accumulate
from typing import Final

import numpy as np

from cache_tiers.returns.curve import Curve
from cache_tiers.returns.prior import GAPS, of_gaps
from cache_tiers.returns.rates import return_rate
from cache_tiers.returns.types import Awaits

_TOOLS: Final = 0.86
"""Of the gaps of 710 recorded coding sessions, those that waited for a tool."""


def _prior() -> Curve:
    """What is believed of a gap when it is not known who is waited for, and none was seen."""
    tool, person = (np.cumprod(1.0 - of_gaps(awaits)) for awaits in (Awaits.TOOL, Awaits.PERSON))
    away = _TOOLS * tool + (1.0 - _TOOLS) * person
    return Curve(GAPS, 1.0 - away / np.append(1.0, away[:-1]))


_RATES: Final = tuple(accumulate((return_rate(_prior(), at) for at in GAPS.edges[:-1]), min))


def unknown_rate(away_s: float) -> float:
    """Returns a second of holding what was last used so long ago. Never rises with time; 0 after a
    week. Any thread."""
    place = GAPS.bin_of(max(0.0, away_s))
    return _RATES[place] if place < len(_RATES) else 0.0
