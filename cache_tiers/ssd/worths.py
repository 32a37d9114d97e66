"""What each segment is worth, and which chunks are of no use.

A segment's worth is what the sessions whose chains go through it would lose with it: everything
from their first chunk in it to their chain's end (see ``cache_tiers/eviction/expectation.py``).
Chunks behind a hole in their chain are *stranded*: of no use to anybody until the hole is filled.

For a million chunks of a thousand sessions an eviction costs some 20 ms here, another expectation
some 100 ms, and each chunk that is new in one 1 to 3 µs.
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from cache_tiers.eviction.expectation import Expectation, MakeExpectation
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.trace import Places, Trace, segments_of
from cache_tiers.types import ChunkKey, SessionKey

_LOOKED_UP_AT_ONCE = 20_000
"""Chunks of an expectation that are looked up, in some 50 ms: a store that was just opened learns
in several rounds who holds what. Until then that is nobody's."""


class Worths:
    """Guarded by the store's write lock, ``tell`` and ``torn`` excepted, which any thread uses."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._told: MakeExpectation | None = None
        self._asked: MakeExpectation | None = None
        """The one that has been asked for ``_expected``."""
        self._expected: Expectation | None = None
        self._traces: dict[SessionKey, Trace] = {}
        self._left: set[int] = set()
        """Segments that chunks have left since."""
        self._worths: dict[int, float] = {}
        self._named: Counter[int] = Counter()
        """Of each segment, chunks of chains."""
        self._stranded: Counter[int] = Counter()
        """Of each segment, those of them that are of no use."""
        self.torn: tuple[SessionKey, ...] = ()
        """Sessions with chunks behind a hole, when ``settle`` was last called."""

    def tell(self, expected: MakeExpectation) -> None:
        """What to ask from now on, instead of what was told before: when somebody needs to know."""
        self._told = expected

    def left(self, segment: int) -> None:
        """Chunks have left the segment: forgotten, or written elsewhere."""
        self._left.add(segment)

    def reset(self) -> None:
        """Any chunk may be anywhere."""
        self._traces, self._left, self._asked = {}, set(), None

    def settle(self) -> None:
        """Take over what was told, and what has left."""
        told = self._told
        if told is not None and told is not self._asked:
            self._asked = told
            self._follow_moves()
            self._expect(told())
        elif self._left:
            self._follow_moves()
            self._appraise()

    # --- as of the last ``settle`` -----------------------------------------------------------

    def of(self, segment: int, chunks: int, last_used: float) -> float:
        """Seconds saved a second by having a segment with so many chunks that are not superseded;
        infinite while that is not known."""
        expected = self._expected
        if expected is None:
            return math.inf
        nobodys = max(0, chunks - self._named[segment])
        return self._worths.get(segment, 0.0) + expected.of_nobody(nobodys, last_used)

    def stranded(self, segment: int) -> int:
        """How many of the segment's chunks are."""
        return self._stranded[segment]

    def stranded_chunks(self, segment: int) -> set[ChunkKey]:
        """Which."""
        torn = [self._traces[session] for session in self.torn if self._stranded[segment]]
        places = _stranded(torn)
        here = set(places[segments_of(places) == segment].tolist())
        return {key for trace in torn for key, place in trace.behind() if place in here}

    # --- inside ------------------------------------------------------------------------------

    def _expect(self, expected: Expectation) -> None:
        self._expected = expected
        before, self._traces = self._traces, {}
        looked_up = 0
        for stake in expected.stakes:
            trace = before.get(stake.session)
            known = trace.known(stake, self._index) if trace is not None else 0
            if trace is not None and known == len(stake.chain) == len(trace.places):
                trace.expect(stake)
            elif looked_up < _LOOKED_UP_AT_ONCE:
                looked_up += len(stake.chain) - known
                found = self._index.places(stake.chain[known:])
                before_it = trace.places[:known].tolist() if trace is not None else []
                trace = Trace(stake, before_it + found)
            if trace is not None:
                self._traces[stake.session] = trace
        self._named = _by_segment(_distinct(t.places for t in self._traces.values()))
        self._appraise()

    def _follow_moves(self) -> None:
        """Look at the chunks again that were in segments which some have left."""
        left, self._left = self._left, set()
        for trace in self._traces.values():
            if not left.isdisjoint(trace.segments):
                trace.look_again(left, self._index)

    def _appraise(self) -> None:
        torn = {session: trace for session, trace in self._traces.items() if trace.is_torn}
        self.torn = tuple(torn)
        self._stranded = _by_segment(_stranded(torn.values()))
        self._worths = {}
        expected = self._expected
        if expected is not None and self._traces:
            longest = max(len(trace.places) for trace in self._traces.values())
            prices = np.array([expected.price.upto(chunks) for chunks in range(longest + 1)])
            segments, lost = zip(*(t.losses(prices) for t in self._traces.values()), strict=True)
            numbers, which = np.unique(np.concatenate(segments), return_inverse=True)
            sums = np.bincount(which, np.concatenate(lost))
            self._worths = dict(zip(numbers.tolist(), sums.tolist(), strict=True))


def _stranded(torn: Iterable[Trace]) -> Places:
    """Places behind holes. A chunk that is behind one has it in all of its chains; where it is of
    use to any of them, for a tier above has the hole's, it is not stranded."""
    torn = list(torn)
    behind = _distinct(trace.places[trace.usable :] for trace in torn)
    bridged = _distinct(trace.places[trace.hole : trace.usable] for trace in torn)
    return np.setdiff1d(behind, bridged, assume_unique=True)


def _distinct(places: Iterable[Places]) -> Places:
    """Each once, holes left out."""
    joined = np.sort(np.concatenate([np.zeros(1, np.uint64), *places]))
    return joined[1:][np.diff(joined) > 0]


def _by_segment(places: Places) -> Counter[int]:
    segments, counts = np.unique(segments_of(places), return_counts=True)
    return Counter(dict(zip(segments.tolist(), counts.tolist(), strict=True)))
