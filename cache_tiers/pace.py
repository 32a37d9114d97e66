"""How much loads may move beside answers that are being decoded. Pure.

Where the engine computes on the processors and the memory bus that loads need, too, what a load
moves makes the steps meanwhile longer. How much longer a chunk makes them is learned from steps
that only decoded: from their time beyond what such steps take for as many sequences without loads
(the mean of the latest). Each step may then have so many chunks beside it that it takes about
``share`` of itself longer, and one at least. None is held back further than a load could be while
it is to be faster than computing.

A step's time varies by more than a few chunks cost, so windows of several steps are looked at, and
the cost is the slope of the line through nothing that fits them best (least squares), to which
windows contribute the more, the more was moved in them. Old windows fade. No step counts as longer
than twice the median, so that one which something else made long changes little.

A load that is spread like this takes longer, and costs others the same time in all, in smaller
parts. Where nothing is lost to loads, they are not limited.
"""

import math
import statistics
from collections import OrderedDict, deque
from typing import Final

_RESTS: Final = 45
"""Steps without loads, of each number of sequences. Where none of so many ever is, nothing is
learned."""
_FEWEST_RESTS: Final = 5
_MOST_SIZES: Final = 64
"""Numbers of sequences remembered."""
_WINDOW: Final = 8
"""Steps."""
_FADES: Final = 0.95
"""What a window counts for when the next one is there."""
_FEWEST: Final = 3
"""Windows before a cost is believed."""
_FIRST_CHUNKS: Final = 4.0
"""A step, until then."""
_LEAST: Final = 1.0
"""Chunks a step, whatever they cost: a load has an end."""
_FASTER: Final = 1.25
"""Than computing, a load has to remain."""


class Pace:
    """One engine's. One thread. Seconds, chunks."""

    def __init__(self, share: float | None) -> None:
        """``share``: by how much of itself a step may become longer (0.05: a twentieth); None for
        no limit. Raises ValueError unless it is above 0."""
        if share is not None and share <= 0:
            raise ValueError("a share above 0")
        self._share = share
        self._rests: OrderedDict[int, deque[float]] = OrderedDict()
        """By sequences, those of the latest steps last."""
        self._rest_s = 0.0
        """What steps like the latest take without loads; 0 before that is known."""
        self._steps = 0
        self._chunks = 0
        self._extra_s = 0.0
        """Of the window that is not full yet."""
        self._windows = 0
        self._moved_squares = 0.0
        self._moved_by_extra_s = 0.0
        """Sums over all windows, faded."""
        self._credit = 0.0
        """Parts of a chunk that earlier steps left."""

    def stepped(self, seconds: float, chunks: int, *, sequences: int, loads: bool) -> None:
        """A step that only decoded so many sequences took so long, while loads moved so many
        chunks. ``loads``: whether any was under way: it may have read ahead of what it moves."""
        if self._share is None:
            return
        rests = self._of(sequences)
        if not loads:
            rests.append(seconds)
        if len(rests) < _FEWEST_RESTS:
            return
        longest_s = 2 * statistics.median(rests)
        self._rest_s = statistics.fmean(min(rest_s, longest_s) for rest_s in rests)
        if loads:
            self._extra_s += min(seconds, longest_s) - self._rest_s
            self._chunks += chunks
            self._steps += 1
            if self._steps == _WINDOW:
                self._learn()

    def allowance(self, *, decodes: bool, compute_s: float) -> float:
        """Chunks that loads may move in the next step, a whole number or ``math.inf``; asked once a
        step. ``decodes``: whether it computes anything for others. ``compute_s``: what it takes to
        compute a chunk instead, where that is cheapest."""
        if self._share is None or not decodes:
            self._credit = 0.0
            return math.inf
        allowed = _FIRST_CHUNKS
        if self._windows >= _FEWEST and self._moved_squares:
            chunk_s = self._moved_by_extra_s / self._moved_squares
            if chunk_s <= 0:
                return math.inf
            allowed = max(_LEAST, self._share * self._rest_s / chunk_s)
        if compute_s > 0:
            allowed = max(allowed, _FASTER * self._rest_s / compute_s)
        self._credit += allowed
        whole = math.floor(self._credit)
        self._credit -= whole
        return whole

    def _of(self, sequences: int) -> deque[float]:
        rests = self._rests.pop(sequences, None)
        self._rests[sequences] = rests = deque(maxlen=_RESTS) if rests is None else rests
        if len(self._rests) > _MOST_SIZES:
            self._rests.popitem(last=False)
        return rests

    def _learn(self) -> None:
        self._moved_squares = _FADES * self._moved_squares + self._chunks**2
        self._moved_by_extra_s = _FADES * self._moved_by_extra_s + self._chunks * self._extra_s
        self._windows += 1
        self._steps, self._chunks, self._extra_s = 0, 0, 0.0
