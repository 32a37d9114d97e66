"""How long the engine computes, read from when its steps come and what they hold. Pure.

Nothing says how long a step took: with asynchronous scheduling one is handed over while the one
before it still runs, or runs before the one before it is known to be over. What is certain is that
a prefill is over once its request has a token, so that is what is measured: an *episode*, from the
step in which some prefill begins to the first moment at which all that began meanwhile have a
token. What steps without any prefill take is measured too, and taken off for every step of an
episode: the rest is what computing its tokens costs.

Under load prefills overlap without end. An episode is therefore over after ``MOST_STEPS`` steps at
the latest, when the next one is handed over. What then still runs is the next one's to wait for, as
what ran when this one began was this one's: it is off by a step, if at all.
"""

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

Piece = tuple[int, int]
"""Tokens of a prompt computed in one step: the first, and the one behind the last."""

MOST_STEPS = 32
"""Of an episode."""
_PLAIN_STEPS = 9


class Prefill(Enum):
    """How a request's prefill stands."""

    RUNS = auto()
    OVER = auto()
    """Its request has a token."""
    GONE = auto()
    """Nobody will know."""


class Steps:
    """One engine's. One thread."""

    def __init__(self, learn: Callable[[Sequence[Piece], float], None]) -> None:
        """``learn`` is told what was computed in an episode, and its seconds beyond those that its
        steps take without any."""
        self._learn = learn
        self._plain: deque[float] = deque(maxlen=_PLAIN_STEPS)
        self._plain_since: float | None = None
        """Since when a step without prefills runs."""
        self._pieces: list[Piece] = []
        """Of the episode; empty for none."""
        self._open: set[str] = set()
        self._began = 0.0
        self._steps = 0

    @property
    def step_s(self) -> float:
        """Of one without prefills, in seconds; 0 before the first."""
        return statistics.median(self._plain) if self._plain else 0.0

    def look(self, prefill: Callable[[str], Prefill], now: float) -> None:
        """Before a step is handed over, and when one is known to be over. ``prefill``: of a request
        of an episode."""
        if self._plain_since is not None:
            self._plain.append(now - self._plain_since)
            self._plain_since = None
        if not self._pieces:
            return
        states = {request: prefill(request) for request in self._open}
        if Prefill.GONE in states.values():
            self._forget()
            return
        # Once it is over its request may end, and nobody will know it any more.
        self._open = {request for request, state in states.items() if state is Prefill.RUNS}
        if not self._open:
            self._end(now)

    def begin(self, pieces: Mapping[str, Piece], *, computes: bool, now: float) -> None:
        """A step is handed over. ``pieces``: of prefills, by request; ``computes``: whether it
        holds anything at all."""
        if self._steps == MOST_STEPS:
            self._end(now)
        if pieces and not self._pieces:
            self._began = now
        self._pieces += pieces.values()
        self._open.update(pieces)
        if self._pieces:
            self._steps += 1
        elif computes:
            self._plain_since = now

    def _end(self, now: float) -> None:
        self._learn(self._pieces, now - self._began - self._steps * self.step_s)
        self._forget()

    def _forget(self) -> None:
        self._pieces, self._steps = [], 0
        self._open.clear()
