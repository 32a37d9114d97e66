"""Paced agents at work on one server, each in a thread of its own.

A team works in *stints*. Within one its agents call tools; a call that would not be over by the
stint's end is an answer to a person instead, who comes back with the next stint. So no gap is cut
short, and what a server learns of tools is true, whatever happens between the stints.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from load.client import Client
from load.paced import MEAN_TOOL_S, PacedAgent, Step


@dataclass(frozen=True, slots=True)
class Turned:
    """One turn. Times in seconds."""

    agent: int
    number: int
    """Of the agent's turns, from 1."""
    sent: float
    """Since the team was made."""
    tool: str
    """That it followed; empty for a person."""
    gap_s: float | None
    """Since the answer before; None for a first turn."""
    announced: bool
    """Whether the client had said how long the gap usually is."""
    ttft: float
    ended: float
    """Since it was sent."""
    output_tokens: int
    receipt: dict[str, Any]


@dataclass(slots=True)
class _Member:
    """An agent, its session, and what it did last."""

    agent: PacedAgent
    session: str
    turns: int = 0
    answer: str = ""
    answered_at: float = 0.0
    step: Step | None = None


class Team:
    """Agents and the server that they work on. One thread uses it."""

    def __init__(
        self,
        client: Client,
        agents: Sequence[PacedAgent],
        *,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """The agents' sessions are called ``agent-0``, ``agent-1``, …; ``pause`` waits for an
        event at most so many seconds, and returns whether it came."""
        self._client = client
        self._clock = clock
        self._pause = pause
        self._members = [_Member(agent, f"agent-{n}") for n, agent in enumerate(agents)]
        self._made = clock()
        self._turns: list[Turned] = []

    def skip(self, answers: Sequence[str]) -> None:
        """The first requests of the first agents were answered so, elsewhere."""
        for member, answer in zip(self._members, answers, strict=False):
            member.step = member.agent.step(0.0)
            member.agent.answered(answer)
            member.turns, member.answered_at = 1, self._clock()

    def turn(self, number: int) -> tuple[Turned, str]:
        """The next turn of one agent, and its answer, to a person."""
        self._turns = []
        self._turn(number, 0.0, 1.0)
        return self._turns[-1], self._members[number].answer

    def wait_until_stored(self, number: int) -> None:
        """Until the SSD has all of one agent's session."""
        self._client.wait_until_stored(self._members[number].session)

    def stint(self, seconds: float, stretch: float) -> list[Turned]:
        """Work for about so long: the last turns are sent by then. Gaps are ``stretch`` times as
        long as usual. Raises what went wrong for any agent."""
        self._turns = []
        until = self._clock() + seconds
        over = threading.Event()
        with ThreadPoolExecutor(len(self._members)) as threads:
            jobs = [
                threads.submit(self._work, number, until, stretch, over)
                for number in range(len(self._members))
            ]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                over.set()
        for job in jobs:
            job.result()
        return sorted(self._turns, key=lambda turn: turn.sent)

    def _work(self, number: int, until: float, stretch: float, over: threading.Event) -> None:
        # Persons come one after another, within the time of one gap.
        wait_s = MEAN_TOOL_S * stretch * (number + 0.5) / len(self._members)
        while not self._pause(over, wait_s):
            step = self._turn(number, until - self._clock(), stretch)
            if step is None or step.gap_s is None:
                return
            wait_s = step.gap_s

    def _turn(self, number: int, left_s: float, stretch: float) -> Step | None:
        member = self._members[number]
        before, step = member.step, member.agent.step(left_s, stretch)
        if step is None:
            return None
        sent = self._clock()
        answer = self._client.chat(step.messages, step.max_tokens, member.session, step.expect)
        member.turns += 1
        self._turns.append(
            Turned(
                agent=number,
                number=member.turns,
                sent=sent - self._made,
                tool=before.tool if before else "",
                gap_s=sent - member.answered_at if before else None,
                announced=before is not None and "seconds=" in before.expect,
                ttft=answer.ttft,
                ended=answer.ended,
                output_tokens=answer.output_tokens,
                receipt=answer.receipt or {},
            )
        )
        member.agent.answered(answer.text)
        member.step, member.answer, member.answered_at = step, answer.text, self._clock()
        return step
