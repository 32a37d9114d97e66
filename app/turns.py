"""The life of a turn on this side of the engine: begun, over, recorded.

Nothing on the way of a token waits for the state database: a turn is written by a task of its own,
and only the end of the answer, which carries the turn's number, waits for that task, and not for
long. A database that fails costs the session its record, never the client its answer.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from app.metrics import STATE_FAILURES, TURNS, count_receipt
from app.receipts import learn, make_receipt
from cache_tiers.prefill_cost import PrefillCost
from engine.port import TurnContext
from sessions.identity import session_key
from sessions.service import SessionService
from sessions.types import BegunTurn, SessionError, StateUnavailable

logger = logging.getLogger(__name__)

STATE_WAIT_S: Final = 5.0
"""How long the end of an answer waits for its turn to be recorded."""


@dataclass(slots=True)
class TurnDesk:
    """Opens turns and keeps their tasks. Lives on the event loop."""

    sessions: SessionService
    fingerprint: str
    """Of the running engine."""
    cost: PrefillCost = field(default_factory=PrefillCost)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def open(self, tenant: str, session_id: str, model: str, cache_salt: str) -> "LiveTurn":
        """A turn that begins when the engine accepts its first generation."""
        return LiveTurn(self, tenant, session_id, model, cache_salt)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every turn that is over is recorded, at most ``timeout_s``."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` apart from the request that asked for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class LiveTurn:
    """One request and its turn."""

    def __init__(
        self, desk: TurnDesk, tenant: str, session_id: str, model: str, cache_salt: str
    ) -> None:
        self.session_id = session_id
        self.context = TurnContext(
            session=session_key(tenant, session_id), cache_salt=cache_salt, on_begin=self._begin
        )
        self._desk = desk
        self._tenant = tenant
        self._model = model
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._begun: BegunTurn | None = None
        self._receipt: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the engine has finished."""
        return self.context.done

    async def finish(self) -> dict[str, Any] | None:
        """Record the turn and return its receipt; None while the engine has not finished, or when
        nothing was generated. Waits at most ``STATE_WAIT_S`` for the database; a turn that is not
        recorded by then, or not at all, has a receipt without a number."""
        if self._task is None or not self.done:
            return None
        self._over.set()
        await asyncio.wait((self._task,), timeout=STATE_WAIT_S)
        if self._receipt is None:
            STATE_FAILURES.labels("wait").inc()
            return self._make_receipt()
        return self._receipt

    def close(self) -> None:
        """The request is over, however it ended. A turn that is not finished was aborted."""
        self._over.set()

    def _begin(self) -> None:
        if self._task is None:
            self._task = self._desk.spawn(self._live())

    async def _live(self) -> None:
        desk = self._desk
        try:
            self._begun = await desk.sessions.begin_turn(self._tenant, self.session_id, self._model)
        except SessionError as error:
            _count_failure("begin", error)
        await self._over.wait()
        if self.done:
            learn(desk.cost, self.context.generations)
            receipt = self._make_receipt()
            count_receipt(receipt)
        else:
            receipt = {}
        TURNS.labels("finished" if receipt else "aborted").inc()
        if self._begun is not None:
            await self._end(self._begun, receipt)
        self._receipt = receipt or None

    def _make_receipt(self) -> dict[str, Any]:
        desk, begun = self._desk, self._begun
        return make_receipt(
            self.session_id,
            begun.number if begun is not None else None,
            self.context.generations,
            begun.previous if begun is not None else None,
            desk.fingerprint,
            desk.cost,
        )

    async def _end(self, begun: BegunTurn, receipt: dict[str, Any]) -> None:
        sessions, generations = self._desk.sessions, self.context.generations
        try:
            if not receipt:
                await sessions.end_turn(begun)
                return
            await sessions.end_turn(
                begun,
                receipt=receipt,
                fingerprint=self._desk.fingerprint,
                prompt_tokens=receipt["prompt_tokens"],
                output_tokens=sum(g.output_tokens for g in generations),
                finish_reason=generations[-1].finish_reason,
            )
        except SessionError as error:
            _count_failure("end", error)


def _count_failure(step: str, error: SessionError) -> None:
    STATE_FAILURES.labels(step).inc()
    # The database itself logs that it fails; anything else is a defect.
    if not isinstance(error, StateUnavailable):
        logger.error("A turn was not recorded (%s): %s", step, error)
