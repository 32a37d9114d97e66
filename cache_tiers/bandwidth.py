"""How fast a tier gives its chunks, learned from what it gave. Pure.

A tier says two numbers that only grow: the chunks that came, and the seconds during which any were
on their way. What they grew by between two looks is *seconds a chunk*, however many transfers ran
at a time: together they are busy no longer than the last of them.

What came is gathered to samples of a few chunks, and the median of the newest samples is believed:
one that was disturbed changes nothing, and of a disk that became slow, or fast again, the second
sample tells. What has been under way for longer than that lets expect is believed at once: the
chunk that does not come is no sample, and may never become one. Of several that a tier brings at a
time, the first may come no sooner than the last.
"""

import statistics
from collections import deque

SAMPLE_CHUNKS = 4
"""Chunks of a sample. What comes within ``SAMPLE_S`` makes one too: a slow tier is found out while
it is slow."""
SAMPLE_S = 0.25
_SAMPLES = 3
_BURSTS = 4
"""A sample ends with all that was under way; where it never ends, after so many times as much."""


class Bandwidth:
    """One tier's. One thread."""

    def __init__(self, expected_s: float) -> None:
        """``expected_s``: seconds a chunk, to believe in before anything came. Too little is better
        than too much: what is believed to be slow is not tried."""
        self._expected_s = expected_s
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._chunks = self._busy_s = 0.0
        """Since the last sample."""
        self._seen_chunks = self._seen_busy_s = 0.0
        self._under_way = self._awaited = 0
        """Now, and at most since the last sample."""

    def look(self, chunks: float, busy_s: float, under_way: int = 0) -> None:
        """The tier's numbers as they are now; parts of chunks count. ``under_way``: how many it
        brings at this time."""
        self._under_way = under_way
        self.add(chunks - self._seen_chunks, busy_s - self._seen_busy_s)
        self._awaited = max(self._awaited, under_way)
        self._seen_chunks, self._seen_busy_s = chunks, busy_s

    def add(self, chunks: float, busy_s: float) -> None:
        """By what they grew."""
        self._chunks += max(0.0, chunks)
        self._busy_s += max(0.0, busy_s)
        # Of several that share the tier the first ones to come have taken the time of all of them.
        whole = not self._under_way or self._chunks >= _BURSTS * self._awaited
        enough = self._chunks >= SAMPLE_CHUNKS or self._busy_s >= SAMPLE_S
        if self._chunks and whole and enough:
            self._samples.append(self._busy_s / self._chunks)
            self._chunks = self._busy_s = 0.0
            self._awaited = 0

    @property
    def chunk_s(self) -> float:
        """Seconds a chunk."""
        known = statistics.median_low(self._samples) if self._samples else self._expected_s
        # As if what is under way came right now.
        return max(known, self._busy_s / (self._chunks + max(1, self._under_way)))
