"""Where on the medium a session's chain is."""

from collections.abc import Container, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_tiers.eviction.expectation import Stake
from cache_tiers.ssd.index import SEGMENT_SHIFT, Index
from cache_tiers.supersession import common
from cache_tiers.types import ChunkKey

Places = NDArray[np.uint64]
"""As ``Index.places`` has them."""
Seconds = NDArray[np.float64]


def segments_of(places: Places) -> Places:
    """The segment of each; 0 for none."""
    return places >> np.uint64(SEGMENT_SHIFT)


class Trace:
    """Guarded by the store's write lock."""

    __slots__ = ("firsts", "hole", "places", "segments", "stake", "usable")

    def __init__(self, stake: Stake, places: Sequence[int]) -> None:
        self.stake = stake
        self.places: Places = np.array(places, np.uint64)
        """Of each chunk of the chain."""
        self.segments: frozenset[int] = frozenset()
        """Through which it goes."""
        self.firsts: NDArray[np.intp] = np.zeros(0, np.intp)
        """Of each of them, in the order of their numbers, the first chunk in it."""
        self.hole = 0
        """The first; the chain's length where there is none."""
        self.usable = 0
        """Leading chunks that are of use."""
        self._look()

    def expect(self, stake: Stake) -> None:
        """The same chain is at stake, perhaps more of it above."""
        self.stake = stake
        self.usable = self._usable(stake.above)

    def known(self, stake: Stake, index: Index) -> int:
        """Leading chunks of another chain of the session whose places are known. The first holes
        are looked at again, of all and of those that nothing above fills: where one was filled,
        those behind it may have been, for chains are written in order."""
        before = self.stake.chain
        known = len(before) if stake.chain is before else common(before, stake.chain)
        holes = (self.hole, self._usable(stake.above))
        return next((i for i in holes if i < known and stake.chain[i] in index), known)

    def look_again(self, segments: Container[int], index: Index) -> None:
        """Chunks have left these segments."""
        moved = [i for i, n in enumerate(segments_of(self.places).tolist()) if n in segments]
        self.places[moved] = index.places(self.stake.chain[i] for i in moved)
        self._look()

    @property
    def is_torn(self) -> bool:
        """Whether there are chunks behind a hole."""
        return self.hole < len(self.places) and bool(self.places[self.hole :].any())

    def behind(self) -> Iterator[tuple[ChunkKey, int]]:
        """Chunks behind what is of use, and their places."""
        start = self.usable
        return zip(self.stake.chain[start:], self.places[start:].tolist(), strict=True)

    def losses(self, prices: Seconds) -> tuple[Places, Seconds]:
        """Segments, and what the session would lose with each a second. ``prices``: seconds to
        compute so many leading chunks."""
        firsts = np.minimum(self.firsts, self.usable)
        lost = self.stake.rate * (prices[self.usable] - prices[firsts])
        return segments_of(self.places[self.firsts]), lost

    def _look(self) -> None:
        segments, firsts = np.unique(segments_of(self.places), return_index=True)
        here = segments > 0
        self.segments, self.firsts = frozenset(segments[here].tolist()), firsts[here]
        self.hole = self._hole(0)
        self.usable = self._usable(self.stake.above)

    def _usable(self, above: int) -> int:
        return self.hole if above <= self.hole else self._hole(above)

    def _hole(self, start: int) -> int:
        """From ``start`` on."""
        holes = np.flatnonzero(self.places[start:] == 0)
        return start + int(holes[0]) if len(holes) else len(self.places)
