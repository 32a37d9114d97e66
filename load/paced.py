"""Agents whose tools take their time: what each sends next, and how long it is away before. Pure.

Conversations are those of ``load.workload``, joined in the middle, where their histories are as
long as wanted. Gaps after tool calls are the recorded ones but the longest fifth, and most of what
they differ by lies between tools, little within one: each of ``TOOLS`` stands for a fifth of what
is left, takes the time in the middle of that fifth, and varies by ``Pace.spread``.
"""

import math
import random
import statistics
from dataclasses import dataclass
from typing import Final

from load.agent import Agent, Message
from load.prose import Prose
from load.workload import TOOL_GAP_S, Shape, Turn, conversation

TOOLS: Final = {
    name: TOOL_GAP_S.at(share)
    for name, share in zip(
        ("list_files", "read_file", "search", "edit_file", "run_tests"),
        (0.08, 0.24, 0.40, 0.56, 0.72),
        strict=True,
    )
}
"""Seconds that each usually takes: 4 to 17."""
MEAN_TOOL_S: Final = statistics.mean(TOOLS.values())
_TURNS_LEFT: Final = 30
"""That an agent has before it at least."""
_TRIES: Final = 500


@dataclass(frozen=True, slots=True)
class Pace:
    """How agents' gaps are made, and what their client says of them."""

    spread: float = 0.1
    """Of a tool's time: the standard deviation of its logarithm."""
    named: bool = True
    """Whether the server learns which tool was called, as it does from an answer that calls one."""
    announced: float = 0.25
    """Share of the calls of named tools of which the client says how long they usually take."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request, and what follows its answer."""

    messages: tuple[Message, ...]
    max_tokens: int
    tool: str
    """That is called then; empty when a person is answered."""
    gap_s: float | None
    """That the tool will take; None for a person, who comes when they come."""
    expect: str
    """What the client says of the gap: the value of ``X-Session-Expect``; empty for nothing."""


class PacedAgent:
    """One agent in the midst of a conversation: the same for the same seed."""

    def __init__(self, seed: str, shape: Shape, pace: Pace, *, shortest: int, longest: int) -> None:
        """Its first request has ``shortest`` to ``longest`` tokens, about. Raises ValueError when
        conversations of this shape are never so long."""
        self._dice = random.Random(f"{seed} gaps")
        self._pace = pace
        wanted = self._dice.uniform(shortest, longest)
        for attempt in range(_TRIES):
            name = f"{seed}-{attempt}"
            turns = conversation(name, shape)
            joined = _joined_at(turns, wanted)
            if joined is not None:
                break
        else:
            raise ValueError("no conversation of this shape is so long")
        at, self.tokens = joined
        """``tokens`` of the first request, about."""
        self._agent = Agent(name, shape)
        answers = Prose(f"{seed} answers")
        for turn in turns[:at]:
            self._agent.request()
            self._agent.answered(answers.words(turn.output))

    def step(self, left_s: float, stretch: float = 1.0) -> Step | None:
        """The next request, to be ``answered`` before another; None when all is said. It calls a
        tool if that will be back within ``left_s``. Gaps are ``stretch`` times as long."""
        if self._agent.upcoming is None:
            return None
        request = self._agent.request()
        # Drawn whether they are used or not, so that a turn's gap depends on its number alone.
        tool = self._dice.choice(list(TOOLS))
        gap_s = TOOLS[tool] * math.exp(self._dice.gauss(0.0, self._pace.spread)) * stretch
        announced = self._dice.random() < self._pace.announced
        if gap_s > left_s:
            return Step(request.messages, request.max_tokens, "", None, "")
        expect = ""
        if self._pace.named:
            usually = f"seconds={TOOLS[tool] * stretch:.3f}; " if announced else ""
            expect = f"{usually}tool={tool}"
        return Step(request.messages, request.max_tokens, tool, gap_s, expect)

    def answered(self, text: str) -> None:
        """Take the answer to the last request into the history."""
        self._agent.answered(text)


def _joined_at(turns: tuple[Turn, ...], tokens: float) -> tuple[int, int] | None:
    """The turn at which a conversation's request has grown to so many tokens, and its tokens; None
    where it grows past them at once, or is nearly over."""
    length = 0
    for number, turn in enumerate(turns[:-_TURNS_LEFT]):
        length = turn.appended + (turns[0].appended + turns[0].output if turn.rewrites else length)
        if length >= tokens:
            return (number, length) if length < 1.1 * tokens else None
        length += turn.output
    return None
