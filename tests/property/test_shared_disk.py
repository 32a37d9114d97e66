"""A disk that serves several reads at a time is no reason to cut a load: what it brings first has
taken the time of all of them, and what comes behind it none."""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.arbiter import Hit, Run, choose
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.types import Tier

CHUNK = 128
LANES = 8
"""Reads of a chunk that the disk serves at a time, all as fast."""
LOOK_S = 0.003
SETTLED = 8


@dataclass
class SharedDisk:
    """``chunk_s`` seconds a chunk, whatever is under way."""

    chunk_s: float
    noise: random.Random
    costs: LearnedCosts = field(default_factory=lambda: LearnedCosts(3 * 2**20))
    chunks_read: int = 0
    busy_s: float = 0.0

    def is_loaded(self, chunks: int) -> bool:
        """Whether a hit is loaded, all of it."""
        hit = Hit(
            start=0,
            prompt=chunks * CHUNK + 1,
            chunk_tokens=CHUNK,
            runs=[Run(Tier.SSD, chunks)],
            together=LANES,
        )
        bargain = choose(hit, self.costs)
        # Read whatever becomes of the load: what is under way comes.
        reads = {number: self._work() for number in range(chunks)}
        passed, arrived, holds = 0.0, 0, bargain.chunks == chunks
        while reads:
            passed += LOOK_S
            self._serve(reads)
            arrived = min(reads, default=chunks)
            self.costs.tiers[Tier.SSD].look(self.chunks_read, self.busy_s, min(LANES, len(reads)))
            holds = holds and bargain.holds(arrived, passed)
        return holds

    def _work(self) -> float:
        return self.chunk_s * self.noise.uniform(0.9, 1.1)

    def _serve(self, reads: dict[int, float]) -> None:
        """Until the next look."""
        left = LOOK_S
        while reads and left > 0:
            lanes = list(reads)[:LANES]
            step = min(left, len(lanes) * min(reads[lane] for lane in lanes))
            for lane in lanes:
                reads[lane] -= step / len(lanes)
                if reads[lane] <= 1e-12:
                    del reads[lane]
                    self.chunks_read += 1
            self.busy_s += step
            left -= step


@settings(max_examples=40)
@given(
    price_s=st.floats(0.02, 0.3),
    share=st.floats(0.1, 0.5),
    chunks=st.integers(2, 64),
    noise=st.builds(random.Random, st.integers(0, 2**32)),
)
def test_sound_loads_are_not_cut(
    price_s: float, share: float, chunks: int, noise: random.Random
) -> None:
    """``share``: of what computing a chunk takes."""
    disk = SharedDisk(share * price_s, noise)
    for tokens in (1000, 2000, 4000):
        disk.costs.prefilled([(0, tokens)], tokens * price_s / CHUNK)
    loaded = [disk.is_loaded(chunks) for _ in range(2 * SETTLED)]
    assert all(loaded[SETTLED:])
