"""A coding agent at work: streamed chat, its whole history in each turn, tools and people between.

Runs under Locust, on whose greenlets it waits. Beside Locust's own entry of each request (which
ends with the headers) it reports ``TTFT``, ``TOKEN`` (the mean time of a token after the first) and
``TURN`` (the whole answer).
"""

import itertools
import os
import time
from typing import Any, ClassVar

from locust import HttpUser, task

from load.agent import Agent
from load.reuse import ReuseTally
from load.stream import BrokenStream, Streamed, read_stream
from load.workload import Shape

_PATH = "/v1/chat/completions"
_TIMEOUT_S = 300


class AgentLoop(HttpUser):
    """One agent after another, each a session of its own until its conversation ends."""

    tally: ClassVar[ReuseTally] = ReuseTally()
    numbers: ClassVar["itertools.count[int]"] = itertools.count()

    def on_start(self) -> None:
        """Ask the server for its model and begin the first conversation."""
        key = os.environ.get("OPENAI_API_KEY")
        self.keys = {"Authorization": f"Bearer {key}"} if key else {}
        answer = self.client.get("/v1/models", headers=self.keys, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        self.model = answer.json()["data"][0]["id"]
        self._begin()

    def wait_time(self) -> float:
        """Seconds until the next turn: the agent's tool, or its person, scaled and bounded."""
        options = self.environment.parsed_options
        upcoming = self.agent.upcoming
        gap_s = upcoming.gap_s if upcoming is not None else 0.0
        return float(min(options.max_think, gap_s * options.think_scale))

    @task
    def turn(self) -> None:
        """One request and its answer; a failed one ends the conversation."""
        if self.agent.upcoming is None:
            self._begin()
        request = self.agent.request()
        body = {
            "model": self.model,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = self._answer(body)
        if answer is None:
            self._begin()
            return
        self.tally.add(answer.ttft, answer.receipt)
        self._report("TTFT", answer.ttft)
        if (per_token := answer.seconds_per_token) is not None:
            self._report("TOKEN", per_token)
        self._report("TURN", answer.ended)
        self.agent.answered(answer.text)

    def _begin(self) -> None:
        options = self.environment.parsed_options
        number = next(self.numbers)
        self.session = f"agent-{options.seed}-{number}"
        self.agent = Agent(self.session, Shape(scale=options.token_scale, context=options.context))

    def _answer(self, body: dict[str, Any]) -> Streamed | None:
        """None for a failure, which Locust has counted."""
        headers = {"X-Session-ID": self.session, **self.keys}
        sent_at = time.perf_counter()
        with self.client.post(
            _PATH,
            json=body,
            headers=headers,
            stream=True,
            catch_response=True,
            timeout=_TIMEOUT_S,
        ) as response:
            if not response.ok:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return None
            try:
                answer = read_stream(response.iter_lines(), sent_at, time.perf_counter)
            except (BrokenStream, OSError) as error:
                response.failure(f"{type(error).__name__}: {error}")
                return None
            response.success()
            return answer

    def _report(self, kind: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name="turn",
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )
