"""How much loads may move beside answers that are being decoded. Pure.

Where the engine computes on the processors and the memory bus that loads need, too, what a load
moves makes the steps meanwhile longer. How much longer a chunk makes them is learned from steps
that only decoded: their time beyond what such steps take without loads (the median of the latest)
is gathered to samples of several chunks, and the median of the newest samples is believed, so that
one step which something else made long changes nothing. Each step may then have so many chunks
beside it that it takes at most ``share`` of itself longer.

A load that is spread like this takes longer, and costs others the same time in all, in smaller
parts. A device that copies by itself loses nothing to loads, and its loads are not limited.
"""

import math
import statistics
from collections import deque
from typing import Final

_RESTS: Final = 15
_SAMPLE_CHUNKS: Final = 8
_SAMPLES: Final = 15
_FEWEST: Final = 5
"""Samples before a cost is believed."""
_FIRST_CHUNKS: Final = 4.0
"""A step, until then."""
_LEAST: Final = 1 / 2
"""Chunks a step, whatever they cost: a load has an end."""


class Pace:
    """One engine's. One thread. Seconds, chunks."""

    def __init__(self, share: float | None) -> None:
        """``share``: by how much of itself a step may become longer (0.05: a twentieth); None for
        no limit. Raises ValueError unless it is above 0."""
        if share is not None and share <= 0:
            raise ValueError("a share above 0")
        self._share = share
        self._rests: deque[float] = deque(maxlen=_RESTS)
        self._costs: deque[float] = deque(maxlen=_SAMPLES)
        self._extra_s = 0.0
        self._chunks = 0
        """Since the last sample."""
        self._credit = 0.0
        """Parts of a chunk that earlier steps left."""

    def stepped(self, seconds: float, chunks: int, *, loads: bool) -> None:
        """A step that only decoded took so long, while loads moved so many chunks. ``loads``:
        whether any was under way: it may have read ahead of what it moves."""
        if self._share is None:
            return
        if not loads:
            self._rests.append(seconds)
        elif self._rests:
            self._extra_s += seconds - statistics.median(self._rests)
            self._chunks += chunks
            if self._chunks >= _SAMPLE_CHUNKS:
                self._costs.append(self._extra_s / self._chunks)
                self._extra_s, self._chunks = 0.0, 0

    def allowance(self, *, decodes: bool) -> float:
        """Chunks that loads may move in the next step, a whole number or ``math.inf``; asked once a
        step. ``decodes``: whether it computes anything for others."""
        if self._share is None or not decodes:
            self._credit = 0.0
            return math.inf
        if len(self._costs) < _FEWEST:
            return _FIRST_CHUNKS
        cost_s = statistics.median(self._costs)
        if cost_s <= 0:
            return math.inf
        self._credit += max(_LEAST, self._share * statistics.median(self._rests) / cost_s)
        whole = math.floor(self._credit)
        self._credit -= whole
        return whole
