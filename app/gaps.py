"""Tells the engine when sessions leave and when they are on their way back.

No request and no answer waits for it: each word is a task of its own, of which there are only so
many. What is lost is a prefetch.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from app.expectation import Expectation
from app.hints import Hints
from app.metrics import HINT_FAILURES
from cache_tiers.hints import Arriving, Expect, Hint, TurnEnded
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey
from sessions.history.chain import Message
from sessions.identity import session_key

MAX_ARRIVING: Final = 64
"""Arrivals on their way to the engine. A request beyond them asks for its chunks itself, soon."""
MAX_TELLING: Final = 1024
"""Other words on their way to it."""
_TOOL_BYTES: Final = 128
"""Of a tool's name, which a model may have made up."""


class Gaps:
    """The gaps of all sessions. Used on one event loop, by any number of tasks."""

    def __init__(self, hints: Hints, hour: Callable[[], int]) -> None:
        """``hour`` is the local time's, 0 … 23."""
        self._hints = hints
        self._hour = hour
        self._running: Counter[SessionKey] = Counter()
        self._arriving: set[asyncio.Task[bool]] = set()
        self._telling: set[asyncio.Task[bool]] = set()

    def begun(self, session: SessionKey) -> "Stay":
        """The engine has accepted a turn of the session."""
        self._running[session] += 1
        return Stay(partial(self._ended, session))

    def arriving(self, session: SessionKey) -> None:
        """A request of the session is on its way in. One that is running has its chunks."""
        if session not in self._running and len(self._arriving) < MAX_ARRIVING:
            _run(self._arriving, self._hints, Arriving(session))

    def expecting(self, session: SessionKey, expected_s: float | None, tool: str) -> None:
        """Somebody who cannot wait says how long the gap will last from now."""
        self._tell(Expect(session, expected_s, tool))

    async def expect(self, session: SessionKey, expected_s: float | None, tool: str) -> None:
        """The same for somebody who can. Raises EngineError."""
        await self._hints.send(Expect(session, expected_s, tool))

    async def close(self) -> None:
        """Leave unsaid what the engine has not heard."""
        unsaid = self._arriving | self._telling
        for task in unsaid:
            task.cancel()
        if unsaid:
            await asyncio.wait(unsaid)

    def _ended(
        self, session: SessionKey, turn: int, awaits: Awaits, tool: str, expected_s: float | None
    ) -> None:
        """Where the turn was the last of the session's that ran, a gap begins."""
        self._running[session] -= 1
        if self._running[session]:
            return
        del self._running[session]
        tool = tool.encode("utf-8", "replace")[:_TOOL_BYTES].decode("utf-8", "ignore")
        self._tell(TurnEnded(session, awaits, tool, turn, self._hour(), expected_s))

    def _tell(self, hint: Hint) -> None:
        if len(self._telling) < MAX_TELLING:
            _run(self._telling, self._hints, hint)
        else:
            HINT_FAILURES.inc()


class Stay:
    """One turn, from its beginning to its end. It ends once: what is said later changes nothing."""

    def __init__(self, over: Callable[[int, Awaits, str, float | None], None]) -> None:
        self._over = over
        self._is_over = False

    def answered(
        self,
        turn: int,
        answers: Sequence[Message],
        *,
        calls_tool: bool,
        expectation: Expectation,
    ) -> None:
        """The client is about to hear ``answers``, as far as they could be read. ``calls_tool``:
        the answer says that it calls one, whose name may be unknown."""
        tool = next((answer.tool for answer in answers if answer.tool), expectation.tool)
        awaits = Awaits.TOOL if tool or calls_tool else Awaits.PERSON
        self._end(turn, awaits, tool, expectation.seconds)

    def aborted(self, turn: int) -> None:
        """Nobody hears an answer, so no tool is called."""
        self._end(turn, Awaits.PERSON, "", None)

    def _end(self, turn: int, awaits: Awaits, tool: str, expected_s: float | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._over(turn, awaits, tool, expected_s)


class Arrival:
    """One request on its way in: whose it is, as far as that is known by now."""

    def __init__(self, gaps: Gaps, tenant: str) -> None:
        self._gaps = gaps
        self._tenant = tenant
        self._told: set[str] = set()

    def of(self, session_id: str | None) -> None:
        """It seems to be of this session of the tenant; None for nobody knows."""
        if session_id is not None and session_id not in self._told:
            self._told.add(session_id)
            self._gaps.arriving(session_key(self._tenant, session_id))


def _run(tasks: set[asyncio.Task[bool]], hints: Hints, hint: Hint) -> None:
    task = asyncio.create_task(hints.tell(hint))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
