"""A simulated engine's steps: one prompt is computed at a time, in pieces, while answers go on.

Every step computes one token for each answer under way. While a prompt is computed steps last as
long as its pieces do, so answers are slower, and each step's decoding makes the prompt slower.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from load.simulate.link import Schedule
from load.simulate.model import EngineModel

Done = Callable[[float], None]
_SAME = 1e-6
"""Of a step: moments closer together are not told apart."""


@dataclass(slots=True)
class Prompt:
    """To be computed from ``start`` to ``end``, then answered with ``output`` tokens."""

    start: int
    end: int
    output: int
    first_token: Done
    answered: Done


class Engine:
    """One engine. Times in seconds."""

    def __init__(self, model: EngineModel, schedule: Schedule) -> None:
        self._model = model
        self._schedule = schedule
        self._prompts: deque[Prompt] = deque()
        self._prompt: Prompt | None = None
        self._step_s = 0.0
        """Of the prompt under way; 0 for none."""
        self._began = 0.0
        """When it did."""
        self._tokens = 0.0
        """Computed so far for an answer that began at the beginning and never ends."""
        self._at = 0.0
        self._answers: list[tuple[float, int, Done]] = []
        """By the value of ``_tokens`` at which they are over."""
        self._serial = 0
        self._started = 0

    @property
    def prefilling(self) -> bool:
        """Whether a prompt is computed, or waits to be."""
        return self._prompt is not None

    def step_ends(self, now: float, further: int = 0) -> float:
        """When the engine listens again: what is said to it during a step, it hears behind that.
        ``further``: steps behind that one."""
        if self._step_s:
            step_s, began = self._step_s, self._began
        elif self._answers:
            step_s, began = self._model.step(len(self._answers)), self._at
        else:
            return now
        steps = math.ceil((now - began) / step_s - _SAME) + further
        return max(now, began + steps * step_s)

    def submit(self, prompt: Prompt, now: float) -> None:
        """All that it does not compute is at hand."""
        self._prompts.append(prompt)
        if self._prompt is None:
            self._next(now)

    def _next(self, now: float) -> None:
        self._advance(now)
        self._prompt = self._prompts.popleft() if self._prompts else None
        self._step_s = 0.0
        if self._prompt is not None:
            prompt = self._prompt
            tokens = prompt.end - prompt.start
            steps = max(1, -(-tokens // self._model.step_tokens))
            alone_s = self._model.prefill(prompt.start, prompt.end)
            decode_s = self._model.step(len(self._answers))
            last_s = alone_s + steps * decode_s
            self._step_s, self._began = last_s / steps, now
            self._schedule(now + last_s, lambda now: self._computed(prompt, now))
        self._plan(now)

    def _computed(self, prompt: Prompt, now: float) -> None:
        self._advance(now)
        self._started += 1
        over = self._tokens + max(0, prompt.output - 1)
        heapq.heappush(self._answers, (over, self._started, prompt.answered))
        prompt.first_token(now)
        self._next(now)

    def _advance(self, now: float) -> None:
        """The answers' progress up to now."""
        if self._answers:
            self._tokens += (now - self._at) / self._token_s()
        self._at = now

    def _token_s(self) -> float:
        return self._step_s or self._model.step(len(self._answers))

    def _plan(self, now: float) -> None:
        """Look again when the next answer is over."""
        self._serial += 1
        if self._answers:
            serial = self._serial
            left = max(0.0, self._answers[0][0] - self._tokens)
            self._schedule(now + left * self._token_s(), lambda now: self._answered(serial, now))

    def _answered(self, serial: int, now: float) -> None:
        if serial != self._serial:
            return
        self._advance(now)
        over, _, done = heapq.heappop(self._answers)
        self._tokens = max(self._tokens, over)
        done(now)
        self._plan(now)
