"""What it costs to compute a piece of a prompt, learned from the prefills that ran.

A token at position ``p`` costs ``a + b·p`` milliseconds: ``a`` is the work that does not depend on
what came before (projections, MLP), ``b`` the attention over everything before it. A piece from
``start`` to ``end`` therefore costs the integral

    cost(start, end) = a·(end − start) + b·(end² − start²)/2

so attention makes a whole prompt quadratic, and a late piece dearer than an early one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

FORGET = 0.99
"""Weight that an observation keeps at each later one: half is gone after 69. Slow enough to
average over noise, quick enough to follow a machine that becomes busy."""

LEAST_TOKENS = 64
"""Shorter prefills are not learned from: what they cost is a step's fixed cost, and taken for the
price of a token it would make every saving look many times what it is."""


@dataclass(slots=True)
class PrefillCost:
    """``a`` and ``b`` by weighted least squares over observed prefills. One thread at a time.

    Divided by its tokens, an observation says: at mean position ``x = (start + end)/2`` a token
    took ``y = ms/tokens``; the model is the line ``y = a + b·x``. Each observation weighs as many
    as its tokens. ``a`` and ``b`` are never negative; both are 0 until something was observed.
    """

    forget: float = FORGET
    _w: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def observe(self, start: int, end: int, ms: float) -> None:
        """Learn from a prefill of the tokens ``start … end`` that took ``ms`` milliseconds.

        One of fewer than ``LEAST_TOKENS``, and what cannot be a prefill, is ignored.
        """
        self.observe_together([(start, end)], ms)

    def observe_together(self, pieces: Sequence[tuple[int, int]], ms: float) -> None:
        """As ``observe``, of pieces ``(start, end)`` that were computed at one time."""
        tokens = sum(end - start for start, end in pieces)
        if any(not 0 <= start <= end for start, end in pieces) or tokens < LEAST_TOKENS or ms <= 0:
            return
        x = sum((start + end) / 2 * (end - start) for start, end in pieces) / tokens
        y = ms / tokens
        self._w = self._w * self.forget + tokens
        self._x = self._x * self.forget + tokens * x
        self._y = self._y * self.forget + tokens * y
        self._xx = self._xx * self.forget + tokens * x * x
        self._xy = self._xy * self.forget + tokens * x * y

    def cost(self, start: int, end: int) -> float:
        """Milliseconds to compute the tokens ``start … end``; 0 before the first observation."""
        a, b = self._line()
        return a * (end - start) + b * (end * end - start * start) / 2

    def _line(self) -> tuple[float, float]:
        if not self._w:
            return 0.0, 0.0
        spread = self._w * self._xx - self._x * self._x
        # Prefills that all had one mean position say nothing of the slope.
        if spread <= 1e-9 * self._w * self._xx:
            return self._y / self._w, 0.0
        b = (self._w * self._xy - self._x * self._y) / spread
        a = (self._y - b * self._x) / self._w
        if b < 0:
            return self._y / self._w, 0.0
        if a < 0:
            return 0.0, self._xy / self._xx
        return a, b
