"""What chunks cost on this machine, learned while it works. Pure.

Until something was seen, tiers are expected to be as fast as any and computing to be slow, so that
loading is tried.
"""

import statistics
from collections import deque
from collections.abc import Sequence

from cache_tiers.bandwidth import Bandwidth
from cache_tiers.endurance.compute import relative_cost
from cache_tiers.prefill_cost import PrefillCost
from cache_tiers.types import Tier

_EXPECTED_BYTES_S = 10e9
_EXPECTED_TOKEN_S = 1e-2
"""As slow as a model on a few cores: a load that is given up for computing may cost a minute there,
one that should have been given up a moment elsewhere, once."""
_FORGET = 0.95
"""Of a prefill, at each later one: half is gone after 14. Machines are shared, and the choice is
made on what they can do now."""
_RECENT = 9
_LONGEST_LEAD_S = 0.5
"""A lead above that was somebody's slow upload. Taken as it is, a few of these would make every
chain one that loads within the lead, which nobody prefetches; so much is no more than a large
prompt's template and tokens take."""


class LearnedCosts:
    """Implements ``Costs``, of DRAM: the tier below is SSD. One thread."""

    def __init__(self, chunk_bytes: int) -> None:
        expected_s = chunk_bytes / _EXPECTED_BYTES_S
        self.tiers = {Tier.SSD: Bandwidth(expected_s), Tier.DRAM: Bandwidth(expected_s)}
        """How fast each gives to the tier above it: SSD to DRAM, DRAM to the device."""
        self._prefill = PrefillCost(forget=_FORGET)
        self._overhead = {busy: _Recent() for busy in (False, True)}
        self._lead = _Recent()

    # --- learning ----------------------------------------------------------------------------

    def prefilled(self, pieces: Sequence[tuple[int, int]], seconds: float) -> None:
        """The engine computed these pieces (first token, behind the last) of prompts in so much
        more time than its steps take without any."""
        self._prefill.observe_together(pieces, seconds * 1000)

    def loaded(self, dram: int, ssd: int, seconds: float, *, busy: bool) -> None:
        """A load of so many chunks by tier, whole, took so long; ``busy``: while the engine
        computed for others."""
        self._overhead[busy].add(seconds - self._transfer_s(dram, ssd))

    def led(self, seconds: float) -> None:
        """From a request's first byte to the question for its chunks. All clients' leads are one:
        none of them counts for more than ``_LONGEST_LEAD_S``."""
        self._lead.add(min(seconds, _LONGEST_LEAD_S))

    # --- Costs -------------------------------------------------------------------------------

    def load_s(self, chunks: int) -> float:
        """See ``Costs``. With the fixed cost, which what loads within the lead pays too."""
        return self._overhead[False].median + chunks * self.tiers[Tier.SSD].chunk_s

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``; without the fixed cost of a step."""
        learned = self._prefill.cost(start_token, end_token) / 1000
        return learned or relative_cost(start_token, end_token) * _EXPECTED_TOKEN_S

    @property
    def lead_s(self) -> float:
        """See ``Costs``."""
        return self._lead.median

    # --- a request's load --------------------------------------------------------------------

    def fetch_s(self, dram: int, ssd: int, *, busy: bool) -> float:
        """To have so many chunks of either tier on the device, from the question on. Rather too
        long than too short: reading from SSD and copying to the device overlap, here they add up.
        """
        return self._overhead[busy].median + self._transfer_s(dram, ssd)

    def _transfer_s(self, dram: int, ssd: int) -> float:
        return ssd * self.tiers[Tier.SSD].chunk_s + (dram + ssd) * self.tiers[Tier.DRAM].chunk_s


class _Recent:
    """The newest samples of one thing, in seconds."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        self._samples.append(max(0.0, seconds))

    @property
    def median(self) -> float:
        """0 before the first."""
        return statistics.median(self._samples) if self._samples else 0.0
