"""A hit is never much slower than a miss, and soon as fast as the better of the two: on any
machine, with a disk of any speed that changes as it likes."""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.arbiter import SLACK, Hit, Run, choose
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.types import Tier

CHUNK = 128
LOOKS = 200
"""Of a load's watcher, in the time that computing its chunks takes."""
SETTLED = 12
"""Requests after which a disk's speed is known."""


@dataclass
class World:
    """A machine and a disk; time in seconds."""

    token_s: float
    slope_s: float
    noise: random.Random
    together: int
    """Chunks that the disk brings at a time: all at once."""
    costs: LearnedCosts = field(default_factory=lambda: LearnedCosts(3 * 2**20))
    chunks_read: float = 0.0
    busy_s: float = 0.0

    def compute_s(self, start: int, end: int) -> float:
        return self.token_s * (end - start) + self.slope_s * (end**2 - start**2) / 2

    def request(self, chunks: int, chunk_s: float) -> tuple[float, float, float]:
        """Its time, a miss's, and what was agreed to be risked."""
        hit = Hit(
            start=0,
            prompt=chunks * CHUNK + 1,
            chunk_tokens=CHUNK,
            runs=[Run(Tier.SSD, chunks)],
            together=self.together,
        )
        missed = self.compute_s(0, hit.end(chunks))
        bargain = choose(hit, self.costs)
        arrived, passed, look = 0, 0.0, missed / LOOKS
        coming = min(self.together, bargain.chunks)
        next_at = self._chunks(coming, chunk_s)
        while arrived < bargain.chunks and bargain.holds(arrived, passed):
            passed += look
            while next_at <= passed and arrived < bargain.chunks:
                arrived += coming
                coming = min(self.together, bargain.chunks - arrived)
                next_at += self._chunks(coming, chunk_s)
            self._read(arrived and self._came(arrived), look, coming)
        self._earlier = 0
        if not bargain.chunks:
            self._read(4, self._chunks(4, chunk_s), 0)
        computed = self.compute_s(hit.end(arrived), hit.end(chunks))
        self.costs.prefilled([(hit.end(arrived), hit.end(chunks))], computed)
        return passed + computed, missed, bargain._agreed_s

    _earlier: int = 0

    def _came(self, arrived: int) -> int:
        new, self._earlier = arrived - self._earlier, arrived
        return new

    def _chunks(self, count: int, chunk_s: float) -> float:
        return count * chunk_s * self.noise.uniform(0.9, 1.1)

    def _read(self, chunks: int, seconds: float, under_way: int) -> None:
        self.chunks_read += chunks
        self.busy_s += seconds
        self.costs.tiers[Tier.SSD].look(self.chunks_read, self.busy_s, under_way)


_WORLDS = st.builds(
    World,
    token_s=st.floats(1e-5, 0.03),
    slope_s=st.floats(0, 1e-7),
    noise=st.builds(random.Random, st.integers(0, 2**32)),
    together=st.integers(1, 8),
)
_SPEEDS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=3)
"""Of the disk, one after the other: a chunk's time over what computing it takes."""


@settings(max_examples=60, deadline=None)
@given(_WORLDS, _SPEEDS, st.integers(2, 60))
def test_a_hit_is_never_much_slower_than_a_miss(
    world: World, speeds: list[float], chunks: int
) -> None:
    world.costs.prefilled([(0, 1000)], world.compute_s(0, 1000))
    world.costs.prefilled([(0, 4000)], world.compute_s(0, 4000))
    for speed in speeds:
        chunk_s = speed * world.compute_s(0, chunks * CHUNK) / chunks
        for number in range(SETTLED + 4):
            took, missed, agreed = world.request(chunks, chunk_s)
            assert took <= (1 + SLACK + 2 / LOOKS) * missed + agreed + 1e-9
            if number >= SETTLED:
                best = min(missed, chunks * chunk_s)
                assert took <= 1.25 * best + 2 * missed / LOOKS
