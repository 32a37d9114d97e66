"""How much loads may move beside answers that are being decoded. Pure.

Where the engine computes on the processors and the memory bus that loads need, too, what a load
moves makes the steps meanwhile longer. How much longer a chunk makes them is learned from steps
that only decoded, with and without loads beside them:

    cost = Σ (step − rest) / Σ chunks        rest: the median of the latest steps without loads

and each step may then have so many chunks beside it that it takes at most ``share`` of itself
longer. A load that is spread like this takes longer and costs others the same time in all, in
smaller parts. A device that copies by itself loses nothing to loads, and its loads are not limited.
"""

import math
import statistics
from collections import deque
from typing import Final

_RESTS: Final = 15
_FORGET: Final = 0.98
"""Of what steps with loads have shown, at each later one: half is gone after 34."""
_FIRST_CHUNKS: Final = 4
"""A step, before anything is known."""
_KNOWN_STEPS: Final = 4.0
"""With loads, before a cost is believed."""


class Pace:
    """One engine's. One thread. Seconds, chunks."""

    def __init__(self, share: float | None) -> None:
        """``share``: by how much of itself a step may become longer (0.05: a twentieth); None for
        no limit. Raises ValueError unless it is above 0."""
        if share is not None and share <= 0:
            raise ValueError("a share above 0")
        self._share = share
        self._rests: deque[float] = deque(maxlen=_RESTS)
        self._extra_s = 0.0
        self._chunks = 0.0
        self._steps = 0.0
        self._credit = 0.0
        """Parts of a chunk that earlier steps left."""

    def stepped(self, seconds: float, chunks: int) -> None:
        """A step that only decoded took so long, while loads moved so many chunks."""
        if not chunks:
            self._rests.append(seconds)
        elif self._rests:
            self._extra_s = _FORGET * self._extra_s + seconds - statistics.median(self._rests)
            self._chunks = _FORGET * self._chunks + chunks
            self._steps = _FORGET * self._steps + 1

    def allowance(self, *, decodes: bool) -> float:
        """Chunks that loads may move in the next step, a whole number or ``math.inf``; asked once a
        step. ``decodes``: whether it computes anything for others."""
        if self._share is None or not decodes:
            self._credit = 0.0
            return math.inf
        if self._steps < _KNOWN_STEPS:
            return _FIRST_CHUNKS
        if self._extra_s <= 0:
            return math.inf
        cost_s = self._extra_s / self._chunks
        self._credit += self._share * statistics.median(self._rests) / cost_s
        whole = math.floor(self._credit)
        self._credit -= whole
        return whole
