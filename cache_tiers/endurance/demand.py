"""What lately asked to be written, by what it was worth. Pure."""

import math

_STEPS = 8
"""Steps a doubling of worth: prices are right to a tenth."""
_LARGEST = 40 * _STEPS
"""Worth is told apart from 2**-40 to 2**40: the memory is bounded."""
_MEMORY = 20_000.0
"""Chunks remembered: at twice as many all counts are halved, so that what is old fades."""


class Demand:
    """One thread."""

    def __init__(self) -> None:
        self._chunks: dict[int, float] = {}
        self._total = 0.0

    def add(self, worth: float, chunks: int) -> None:
        """So many chunks ask for the first time. ``worth`` is positive, in the caller's unit."""
        if not chunks:
            return
        step = max(-_LARGEST, min(_LARGEST, round(_STEPS * math.log2(worth))))
        self._chunks[step] = self._chunks.get(step, 0.0) + chunks
        self._total += chunks
        if self._total >= 2 * _MEMORY:
            self._total /= 2
            for each in self._chunks:
                self._chunks[each] /= 2

    def price(self, refused: float) -> float:
        """The worth that a share ``refused`` (0 … 1) of the recent demand is below; 0 for none of
        it, and before anything asked."""
        sought = refused * self._total
        if sought <= 0:
            return 0.0
        below = 0.0
        price = 0.0
        for step, chunks in sorted(self._chunks.items()):
            # Within a step the demand is taken as spread evenly.
            price = 2.0 ** ((step - 0.5 + min(1.0, (sought - below) / chunks)) / _STEPS)
            below += chunks
            if below >= sought:
                break
        return price
