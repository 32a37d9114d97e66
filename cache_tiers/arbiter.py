"""Load or compute: how much of what a request finds below the device is worth loading. Pure.

**Where to cut.** A load brings the first ``k`` of ``n`` chunks found; what is behind is computed.
The request waits

    T(k) = load(k) + C(e(k), p)        e(k): the token behind chunk k;  p: the prompt's end

``load(0) = 0``; otherwise it is a fixed cost, and for each chunk what its tier takes. ``C`` is the
integral of a token's price ``a + b·x`` (``prefill_cost.py``), which is never less at a later token.
While ``k`` moves through chunks of one tier, each step adds the same to ``load`` and takes a
chunk's price from ``C``, and that only grows. So the steps of ``T`` only fall: ``T`` is concave
there, and least at an end. The best cut is therefore the end of a run of chunks of one tier, or
nothing: these are all that are tried. The engine's step for the tail is the same in all of them,
and not counted. Where only the whole can be used (a sliding window was looked up in front of the
hit's end, and of no other place), it is the whole or nothing.

**While it runs.** Tiers become slow, and disks stop. At any moment the load has cost ``t`` seconds
and brought ``k`` chunks, worth ``C(e(0), e(k))``. It is cut, and the rest computed, when

1. the rest would take longer to load than to compute, as the tiers go now; or
2. its deficit ``t − C(e(0), e(k))`` is larger than it was agreed to become on the way, by more than
   ``SLACK`` of all that it may save, ``C(e(0), e(n))``.

A load that is cut costs, beyond computing everything, its deficit. By the second rule that is at
most what was agreed to (mostly the time to the first chunks) and ``SLACK`` of a miss, whatever the
tier does: as in the rental of skis (Karlin et al. 1988) one pays a little longer for what may turn
out well, and stops when what was lost reaches a share of the price of buying. The chunks that came
stay.

A disk brings ``w`` chunks at a time, and the first of them may come no sooner than the last. So
before chunk ``k`` comes the deficit is at most ``D(k) = load(min(k + w, n)) − C(e(0), e(k))``.
Within a run each step up to the last ``w`` chunks adds a chunk's time to ``D`` and takes the price
of chunk ``k``, which only grows: ``D`` rises until that price is the larger one, and only falls
from there on; among the last ``w`` it only falls. Bisection finds its top. What is agreed to is
``D`` at the price at which loading was chosen, which is a tenth more than what is expected.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.types import Tier

SLACK = 0.05
"""By so much of a miss a hit may be slower, at the worst, beyond what was agreed to."""
_CAUTION = 1.1
"""A load must seem to be so much faster than computing: what is expected is off by a few percent,
and of two that take as long, computing is the one without surprises."""


class LoadCosts(Protocol):
    """In seconds."""

    def fetch_s(self, dram: int, ssd: int, *, busy: bool) -> float:
        """To have so many chunks by tier on the device: a fixed cost, and the same for each of a
        tier. ``busy``: while the engine computes for others."""
        ...

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks that follow each other, all in one tier."""

    tier: Tier
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a request finds below the device."""

    start: int
    """Tokens of the prompt that are on the device."""
    prompt: int
    """Tokens of the prompt."""
    chunk_tokens: int
    runs: Sequence[Run]
    """From ``start`` on, in prefix order."""
    together: int = 1
    """Chunks that SSD brings at a time: the first of them may come no sooner than the last."""
    parts: int = 1
    """Of each chunk, to be fetched one by one: as many as there are groups of KV."""
    divisible: bool = True
    """Whether a part of it can be used, and so what has come of a load that is cut."""
    busy: bool = False
    """Whether the engine computes for others meanwhile."""

    @property
    def chunks(self) -> int:
        """Found."""
        return sum(run.chunks for run in self.runs)

    def upto(self, chunks: int) -> tuple[int, int]:
        """Of the first so many, the parts in DRAM and those on SSD."""
        counts = {Tier.DRAM: 0, Tier.SSD: 0}
        for run in self.runs:
            taken = min(chunks, run.chunks)
            counts[run.tier] += taken * self.parts
            chunks -= taken
        return counts[Tier.DRAM], counts[Tier.SSD]

    def end(self, chunks: int) -> int:
        """The token behind so many; the prompt's last one is always computed."""
        return min(self.start + chunks * self.chunk_tokens, self.prompt - 1)


@dataclass(frozen=True, slots=True)
class _Prices:
    """What ``fetch_s`` is made of, with ``_CAUTION``; taken once for many answers: each costs
    medians."""

    fixed_s: float
    chunk_s: dict[Tier, float]
    """With all its parts."""

    @classmethod
    def of(cls, hit: Hit, costs: LoadCosts) -> "_Prices":
        fixed_s = costs.fetch_s(0, 0, busy=hit.busy)
        dram_s = costs.fetch_s(hit.parts, 0, busy=hit.busy) - fixed_s
        ssd_s = costs.fetch_s(0, hit.parts, busy=hit.busy) - fixed_s
        chunk_s = {Tier.DRAM: _CAUTION * dram_s, Tier.SSD: _CAUTION * ssd_s}
        return cls(_CAUTION * fixed_s, chunk_s)


class Bargain:
    """A load that was agreed to: ``chunks`` of a hit, none of them when computing is better."""

    def __init__(self, hit: Hit, chunks: int, costs: LoadCosts) -> None:
        self.hit = hit
        self.chunks = chunks
        self._costs = costs
        self._agreed_s = self._largest_deficit()

    def holds(self, arrived: int, elapsed_s: float) -> bool:
        """Whether to go on, ``elapsed_s`` after the load began, with the first ``arrived`` chunks
        on the device or in DRAM."""
        kept = self._kept(arrived)
        allowed_s = self._agreed_s + SLACK * self._worth_s(0, self.chunks)
        if elapsed_s - self._worth_s(0, kept) > allowed_s:
            return False
        return self._rest_s(arrived) <= (1 + SLACK) * self._worth_s(kept, self.chunks)

    def _largest_deficit(self) -> float:
        """As it is expected to go, if it goes slowly: what will have been spent when the next chunk
        comes, less what those before it are worth."""
        prices = _Prices.of(self.hit, self._costs)
        largest, spent, first = 0.0, prices.fixed_s, 0
        ssd_left = self.hit.upto(self.chunks)[1] // self.hit.parts
        for run in self.hit.runs:
            chunks = min(run.chunks, self.chunks - first)
            if chunks <= 0:
                break
            chunk_s = prices.chunk_s[run.tier]
            # What is in DRAM is there: of SSD's chunks those of several runs come together.
            left, together = (ssd_left, self.hit.together) if run.tier is Tier.SSD else (chunks, 1)
            together = min(left, together)
            top = first + min(chunks - 1, left - together)
            if self.hit.divisible:
                top = self._top(first, top, chunk_s)
            spent_then = spent + (top - first + together) * chunk_s
            deficit = spent_then - self._worth_s(0, self._kept(top))
            largest = max(largest, deficit)
            spent += chunks * chunk_s
            ssd_left -= chunks if run.tier is Tier.SSD else 0
            first += chunks
        return largest

    def _top(self, first: int, last: int, chunk_s: float) -> int:
        """Before which of a run's chunks the deficit is largest: the first one that is dearer to
        compute than to load."""

        def is_dear(chunk: int) -> bool:
            return self._worth_s(chunk, chunk + 1) >= chunk_s

        return first + bisect_left(range(first, last), True, key=is_dear)

    def _kept(self, arrived: int) -> int:
        """Of those that arrived, what a cut leaves."""
        return arrived if self.hit.divisible else 0

    def _rest_s(self, arrived: int) -> float:
        """To load what has not arrived, as the tiers go now."""
        if arrived >= self.chunks:
            return 0.0
        return self._fetch_s(self.chunks) - self._fetch_s(arrived)

    def _fetch_s(self, chunks: int) -> float:
        dram, ssd = self.hit.upto(chunks)
        return self._costs.fetch_s(dram, ssd, busy=self.hit.busy)

    def _worth_s(self, first: int, behind: int) -> float:
        return self._costs.compute_s(self.hit.end(first), self.hit.end(behind))


def choose(hit: Hit, costs: LoadCosts) -> Bargain:
    """The best part of a hit to load."""
    prices = _Prices.of(hit, costs)
    best, best_s = 0, costs.compute_s(hit.end(0), hit.prompt)
    cut, load_s = 0, prices.fixed_s
    for run in hit.runs:
        cut += run.chunks
        load_s += run.chunks * prices.chunk_s[run.tier]
        if cut < hit.chunks and not hit.divisible:
            continue
        waiting_s = load_s + costs.compute_s(hit.end(cut), hit.prompt)
        # Of equals the longest: what is loaded leaves the engine to others.
        if waiting_s <= best_s:
            best, best_s = cut, waiting_s
    return Bargain(hit, best, costs)
