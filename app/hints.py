"""The line to the engine on which hints go out and pulses come back.

All of it is advice: what cannot be told is counted and said once, and costs nobody an answer.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from app.metrics import HINT_FAILURES
from cache_tiers.hints import Hint, Poll
from engine.port import EngineDead, EngineError, EnginePort

logger = logging.getLogger(__name__)

REST_S: Final = 0.02
"""Between two polls at least."""
ANSWER_S: Final = 30.0
"""How long an engine that is computing may take to answer."""


class Hints:
    """Tells the engine hints, and polls it when it wants to be polled and not before: an idle
    engine's workers are awake for a second when it is asked anything. Lives on one event loop."""

    def __init__(self, engine: EnginePort) -> None:
        self._engine = engine
        self._due: float | None = None
        """By the loop's clock, as the newest pulse said: it was given knowing everything."""
        self._pulse = asyncio.Event()
        self._failing = False

    async def send(self, hint: Hint) -> None:
        """Tell a hint. Raises EngineError."""
        try:
            async with asyncio.timeout(ANSWER_S):
                pulse = await self._engine.hint(hint)
        except TimeoutError:
            raise EngineError(f"the engine did not answer within {ANSWER_S:.0f} s") from None
        wait_s, now = pulse.next_in_s, asyncio.get_running_loop().time()
        self._due = None if wait_s is None else now + wait_s
        self._pulse.set()

    async def tell(self, hint: Hint) -> bool:
        """The same without errors: whether the engine has heard it."""
        try:
            await self.send(hint)
        except EngineError as error:
            HINT_FAILURES.inc()
            # Of a dead engine others tell.
            if not self._failing and not isinstance(error, EngineDead):
                logger.warning("The engine was not told what it may decide by: %s", error)
            self._failing = True
            return False
        self._failing = False
        return True

    async def run(self) -> None:
        """Poll when it is due, for as long as the task may run."""
        while True:
            await self._until_due()
            self._due = None
            await self.tell(Poll())
            await asyncio.sleep(REST_S)

    async def _until_due(self) -> None:
        now = asyncio.get_running_loop().time
        while self._due is None or now() < self._due:
            self._pulse.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._due):
                    await self._pulse.wait()
