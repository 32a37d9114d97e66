"""What sessions are expected to ask a store for again. Immutable: made on one thread, used on
another.

What is lost with a chunk is everything from it to its chain's end, for a chunk is useless without
all before it. By the score of ``cache_tiers/importance.py``, for the lowest tier, that is worth

    the session's return rate × the seconds that it takes to compute so much at its position

summed over the sessions whose chains go through it. Nothing is brought back to the lowest tier
before it is computed, so the return rate looks ahead from now alone.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Self

from cache_tiers.costs import Costs
from cache_tiers.returns.unknown import unknown_rate
from cache_tiers.types import ChunkKey, SessionKey

_PRICED_CHUNKS = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """A moment's ``Costs`` of computing chunks. A chunk costs ``fixed`` seconds and ``growth`` for
    each that is before it (``cache_tiers/prefill_cost.py``)."""

    fixed: float
    growth: float

    @classmethod
    def of(cls, costs: Costs, chunk_tokens: int) -> Self:
        """Read off two prices: they tell all others."""
        near = costs.compute_s(0, _PRICED_CHUNKS * chunk_tokens)
        far = costs.compute_s(0, 2 * _PRICED_CHUNKS * chunk_tokens)
        growth = max(0.0, far - 2 * near) / _PRICED_CHUNKS**2
        return cls(near / _PRICED_CHUNKS - growth * _PRICED_CHUNKS / 2, growth)

    def upto(self, chunks: int) -> float:
        """Seconds to compute the first so many of a chain."""
        return chunks * (self.fixed + self.growth * chunks / 2)


@dataclass(frozen=True, slots=True)
class Stake:
    """What one session has in a store."""

    session: SessionKey
    chain: tuple[ChunkKey, ...]
    above: int
    """So many leading chunks are there, whatever the store has of them: a tier above it has them.
    """
    rate: float
    """Returns a second of holding."""

    def hole(self, held: Container[ChunkKey], start: int = 0) -> int:
        """The first chunk from ``start`` on that is not ``held``; the chain's length where all
        are. From ``above`` on: what is behind it is of no use."""
        places = range(start, len(self.chain))
        return next((i for i in places if self.chain[i] not in held), len(self.chain))


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of all sessions."""

    stakes: tuple[Stake, ...]
    """Each session once."""
    price: Price
    now: float
    """When this was so, in seconds of the store's clock."""

    def of_nobody(self, chunks: int, last_used: float) -> float:
        """What so many chunks of no chain are worth, used last at that time: each as the only one
        of a session of which nothing else is known."""
        return chunks * unknown_rate(self.now - last_used) * self.price.upto(1)

    def useful(self, held: Container[ChunkKey]) -> dict[ChunkKey, float]:
        """The chunks of the chains that are of use to a store that holds these, and what is lost
        with each."""
        worths: dict[ChunkKey, float] = {}
        for stake in self.stakes:
            usable = stake.hole(held, stake.above)
            for i, key in enumerate(stake.chain[:usable]):
                lost_s = self.price.upto(usable) - self.price.upto(i)
                worths[key] = worths.get(key, 0.0) + stake.rate * lost_s
        return worths


MakeExpectation = Callable[[], Expectation]
"""Any thread."""
