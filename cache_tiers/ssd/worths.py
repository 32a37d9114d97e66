"""What each segment is worth, and which chunks are of no use.

A segment's worth is what the sessions whose chains go through it would lose with it: everything
from their first chunk in it to their chain's end (see ``cache_tiers/eviction/expectation.py``).
Chunks behind a hole in their chain are *stranded*: of no use to anybody until the hole is filled.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cache_tiers.eviction.expectation import Expectation, MakeExpectation, Stake
from cache_tiers.ssd.index import SEGMENT_SHIFT, Index
from cache_tiers.supersession import common
from cache_tiers.types import ChunkKey, SessionKey, Standing

_LOOKED_UP_AT_ONCE = 20_000
"""Chunks of an expectation that are looked up, in some 50 ms: a store that was just opened learns
in several rounds who holds what. Until then that is nobody's."""


@dataclass(slots=True)
class _Trace:
    """Where a session's chain is."""

    stake: Stake
    places: "array[int]"
    """For each chunk its place's number, 0 for a hole."""
    firsts: dict[int, int] = field(default_factory=dict)
    """For each segment the first chunk in it."""
    hole: int = 0
    """The first; the chain's length where there is none."""
    usable: int = 0
    """Leading chunks that are of use."""

    def look(self) -> None:
        """``places`` have changed."""
        self.firsts = {}
        for i, place in enumerate(self.places):
            if place:
                self.firsts.setdefault(place >> SEGMENT_SHIFT, i)
        self.hole = self._hole_from(0)
        self.expect(self.stake)

    def expect(self, stake: Stake) -> None:
        """The same chain is at stake, perhaps more of it above."""
        self.stake = stake
        self.usable = self.usable_with(stake.above)

    def usable_with(self, above: int) -> int:
        """What is of use when so many leading chunks are above."""
        return self.hole if above <= self.hole else self._hole_from(above)

    def behind(self, start: int) -> dict[ChunkKey, int]:
        """Chunks from ``start`` on that are there, and their places."""
        pairs = zip(self.stake.chain[start:], self.places[start:], strict=True)
        return {key: place for key, place in pairs if place}

    def _hole_from(self, start: int) -> int:
        try:
            return self.places.index(0, start)
        except ValueError:
            return len(self.places)


class Worths:
    """Guarded by the store's write lock, ``tell`` and ``torn`` excepted, which any thread uses."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._told: MakeExpectation | None = None
        self._asked: MakeExpectation | None = None
        """The one that has been asked for ``_expected``."""
        self._expected: Expectation | None = None
        self._traces: dict[SessionKey, _Trace] = {}
        self._named: Counter[int] = Counter()
        """Of each segment, chunks of chains."""
        self._left: set[int] = set()
        """Segments that chunks have left since."""
        self._stranded: dict[ChunkKey, int] = {}
        """Chunks that the index knows as such, and their places."""
        self._worths: dict[int, float] = {}
        self.torn: tuple[SessionKey, ...] = ()
        """Sessions with chunks behind a hole, when ``settle`` was last called."""

    def tell(self, expected: MakeExpectation) -> None:
        """What to ask from now on, instead of what was told before: when somebody needs to know."""
        self._told = expected

    def left(self, segment: int) -> None:
        """Chunks have left the segment: forgotten, or written elsewhere."""
        self._left.add(segment)

    def reset(self) -> None:
        """Any chunk may be anywhere, and the index knows nothing of what was stranded."""
        self._traces, self._stranded, self._left = {}, {}, set()
        self._asked = None

    def settle(self) -> None:
        """Take over what was told, and what has left."""
        told = self._told
        if told is not None and told is not self._asked:
            self._asked = told
            self._expect(told())
        elif self._left:
            self._follow_moves()
            self._strand()
            self._appraise()

    def of(self, segment: int, chunks: int, last_used: float) -> float:
        """Seconds saved a second by having a segment, which holds so many chunks; infinite while
        that is not known. As of the last ``settle``."""
        expected = self._expected
        if expected is None or not expected.trusted:
            return math.inf
        superseded = self._index.ranked(segment, Standing.SUPERSEDED)
        nobodys = max(0, chunks - self._named[segment] - superseded)
        return self._worths.get(segment, 0.0) + expected.of_nobody(nobodys, last_used)

    # --- inside ------------------------------------------------------------------------------

    def _expect(self, expected: Expectation) -> None:
        self._expected = expected
        self._follow_moves()
        before, self._traces = self._traces, {}
        looked_up = 0
        for stake in expected.stakes:
            trace = before.get(stake.session)
            known = self._known(trace, stake)
            if trace is not None and known == len(stake.chain) == len(trace.places):
                trace.expect(stake)
            elif looked_up < _LOOKED_UP_AT_ONCE:
                trace = self._look(stake, trace.places[:known] if trace else array("Q"))
                looked_up += len(stake.chain) - known
            if trace is not None:
                self._traces[stake.session] = trace
        self._named = self._count()
        self._strand()
        self._appraise()

    def _known(self, trace: _Trace | None, stake: Stake) -> int:
        """Leading chunks of the chain whose places are known. A hole is looked at again: where one
        was filled, those behind it may have been."""
        if trace is None:
            return 0
        before = trace.stake.chain
        known = len(before) if stake.chain is before else common(before, stake.chain)
        hole = trace.usable_with(stake.above)
        if hole < known and stake.chain[hole] in self._index:
            return hole
        return known

    def _look(self, stake: Stake, places: "array[int]") -> _Trace:
        """Where the whole chain is; the places of its beginning are known."""
        places.extend(self._index.places(stake.chain[len(places) :]))
        trace = _Trace(stake, places)
        trace.look()
        return trace

    def _follow_moves(self) -> None:
        """Look at the chunks again that were in segments which some have left."""
        left, self._left = self._left, set()
        for trace in self._traces.values():
            if left.isdisjoint(trace.firsts):
                continue
            moved = [i for i, place in enumerate(trace.places) if place >> SEGMENT_SHIFT in left]
            found = self._index.places(trace.stake.chain[i] for i in moved)
            for i, place in zip(moved, found, strict=True):
                trace.places[i] = place
            trace.look()

    def _count(self) -> Counter[int]:
        """Chunks of chains by segment, each once however many hold it."""
        places = [np.frombuffer(t.places, np.uint64) for t in self._traces.values() if t.places]
        if not places:
            return Counter()
        segments = np.unique(np.concatenate(places)) >> np.uint64(SEGMENT_SHIFT)
        numbers, counts = np.unique(segments, return_counts=True)
        return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))

    def _strand(self) -> None:
        """Tell the index what is of no use. A chunk behind a hole has it in all of its chains; one
        that is of use to any of them, for a tier above has the hole's, is of use."""
        torn = [t for t in self._traces.values() if any(t.places[t.hole :])]
        self.torn = tuple(trace.stake.session for trace in torn)
        behind: dict[ChunkKey, int] = {}
        for trace in torn:
            behind.update(trace.behind(trace.usable))
        for trace in torn:
            for key in trace.stake.chain[trace.hole : trace.usable]:
                behind.pop(key, None)
        before, self._stranded = self._stranded, behind
        self._index.strand(_differing(before, behind), False)
        self._index.strand(_differing(behind, before), True)

    def _appraise(self) -> None:
        """Add up what sessions would lose with each segment."""
        worths: dict[int, float] = defaultdict(float)
        expected = self._expected
        for trace in self._traces.values() if expected and expected.trusted else ():
            assert expected is not None
            upto, rate, usable = expected.price.upto, trace.stake.rate, trace.usable
            whole = upto(usable)
            for segment, first in trace.firsts.items():
                if first < usable:
                    worths[segment] += rate * (whole - upto(first))
        self._worths = worths


def _differing(some: dict[ChunkKey, int], others: dict[ChunkKey, int]) -> Sequence[ChunkKey]:
    """Chunks that are not in the same place among the others."""
    return [key for key, place in some.items() if others.get(key) != place]
