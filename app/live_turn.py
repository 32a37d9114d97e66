"""The life of a turn on this side of the engine: begun, over, recorded.

Nothing on the way of a token waits for the state database: a turn is written by a task of its own,
and only the end of the answer, which carries the turn's number, waits for that task, and not for
long: where this process alone has the database, only until everything that is asked of it later
finds the turn recorded. A database that fails costs the session its record, never the client its
answer.
"""

import asyncio
import logging
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from app.expectation import Expectation
from app.gaps import Stay
from app.lease_claim import LeaseClaim
from app.leases import Wish
from app.metrics import STATE_FAILURES, TURNS, count_receipt
from app.receipts import learn, make_receipt, prefix_change
from app.turn_desk import TurnDesk
from engine.port import Generation, TurnContext
from sessions.history.chain import Message
from sessions.history.changes import rewritten
from sessions.history.continuation import continued
from sessions.history.ending import Ending
from sessions.history.place import Place
from sessions.identity import session_key
from sessions.line import Ticket
from sessions.types import BegunTurn, SessionError, StateUnavailable
from sessions.units import Write

logger = logging.getLogger(__name__)

STATE_WAIT_S: Final = 5.0
"""How long the end of an answer waits for its turn to be recorded."""
ANSWER_FIRST_S: Final = 0.05
"""How long the record of a turn waits for its answer to go, while nobody waits for the record."""


class LiveTurn:
    """One request and its turn, which begins when the engine accepts its first generation.

    ``place`` was found by the desk's histories, and is released when the turn is over. ``wish`` is
    the lease asked for, ``expectation`` what the client says of the gap after the turn."""

    def __init__(
        self,
        desk: TurnDesk,
        tenant: str,
        place: Place,
        model: str,
        cache_salt: str,
        wish: Wish | None,
        expectation: Expectation,
    ) -> None:
        self.session_id = place.session_id
        self.also_at_end: list[Write] = []
        """What others store with the end of a turn that was answered."""
        self.recorded = False
        """Whether the database has its end."""
        self.context = TurnContext(
            session=session_key(tenant, place.session_id),
            cache_salt=cache_salt,
            on_begin=self._begin,
            on_prompt=self._prompt if place.exact else None,
        )
        self._desk = desk
        self._tenant = tenant
        self._place = place
        self._model = model
        self._claim = None if wish is None else LeaseClaim(desk.leases, wish)
        self._expectation = expectation
        self._stay: Stay | None = None
        self._over = asyncio.Event()
        self._numbered = asyncio.Event()
        self._ticket: Ticket | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun: BegunTurn | None = None
        self._answers: Sequence[Message] = ()
        self._receipt: dict[str, Any] | None = None
        self._released = False

    @property
    def done(self) -> bool:
        """Whether the engine has finished."""
        return self.context.done

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of KV the engine keeps together."""
        return self._desk.engine.info.tokens_per_chunk

    @property
    def number(self) -> int | None:
        """The turn's number in its session; None while it is not known."""
        return self._begun.number if self._begun is not None else None

    @property
    def has_history(self) -> bool:
        """Whether what is answered belongs to a history."""
        return self._place.chain is not None

    async def finish(
        self, answers: Sequence[Message] = (), *, calls_tool: bool = False
    ) -> dict[str, Any] | None:
        """Record the turn and return its receipt; None while the engine has not finished, or when
        nothing was generated. ``answers`` are the choices that the client is given, as far as they
        could be read; ``calls_tool``: the answer says that it calls one. Waits at most
        ``STATE_WAIT_S`` for the database; a turn that is not recorded by then, or not at all, has a
        receipt without a number.

        Where nobody can see the difference, the answer does not wait for the record: the record has
        a place in front of everything that is asked of the database from now on. A turn with
        something in ``also_at_end`` waits, and so ``recorded`` is known."""
        if self._task is None or not self.done:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(STATE_WAIT_S):
                await self._ended(self._task, answers)
        self._over.set()
        if self._stay is not None:
            number, said = self.number or 1, self._expectation
            self._stay.answered(number, answers, calls_tool=calls_tool, expectation=said)
        if self._ticket is not None:
            self._release(answered=True)
            return self._told()
        if self._receipt is None:
            STATE_FAILURES.labels("wait").inc()
            return self._make_receipt()
        return self._receipt

    async def _ended(self, task: asyncio.Task[None], answers: Sequence[Message]) -> None:
        """Wait until the turn's end is recorded, or has its place among the records."""
        if not self._over.is_set():
            self._answers = answers
            if not self.also_at_end and self._claim is None:
                # The beginning has a place already: it has to be in front.
                await self._numbered.wait()
                if self._begun is not None and not self._over.is_set():
                    self._ticket = self._desk.sessions.units.ticket()
            self._over.set()
        if self._ticket is None:
            await asyncio.wait((task,))

    def close(self) -> None:
        """The request is over, however it ended. A turn that is not finished was aborted."""
        self._over.set()
        if self._ticket is not None:
            self._ticket.hurry.set()
        if self._task is None:
            self._release()
            self._drop_fork()
        if self._stay is not None:
            self._stay.aborted(self.number or 1)

    def _drop_fork(self) -> None:
        """No turn began: nothing would ever delete what the fork holds of its parent's KV."""
        if self._place.lineage is not None:
            self._desk.spawn(self._desk.drop(self._tenant, self.session_id))

    def _release(self, *, answered: bool = False) -> None:
        histories = self._desk.histories
        if not self._released:
            self._released = True
            (histories.answered if answered else histories.release)(self._tenant, self._place)

    def _prompt(self, rendered: Sequence[int]) -> Sequence[int]:
        """What is computed: the conversation as it was, and what is new."""
        kept = self._place.kept
        if kept is None or len(self.context.generations) > 1:
            return rendered
        return continued(kept.transcript, rendered, self._desk.engine.end_of_turn) or rendered

    def _begin(self) -> None:
        if self._task is None:
            self._stay = self._desk.gaps.begun(self.context.session)
            self._task = self._desk.spawn(self._live())
            self._task.add_done_callback(lambda _: self._release())

    async def _live(self) -> None:
        desk = self._desk
        try:
            self._begun = await desk.sessions.begin_turn(
                self._tenant, self.session_id, self._model, lineage=self._place.lineage
            )
        except SessionError as error:
            _count_failure("begin", error)
        finally:
            self._numbered.set()
        claim = self._claim if self._begun is not None else None
        if claim is not None:
            desk.spawn(claim.make(self._tenant, self.session_id))
        await self._over.wait()
        try:
            if claim is not None and self.done:
                await claim.settled()
            await self._record()
        finally:
            if self._ticket is not None:
                self._ticket.give_up()
                desk.histories.recorded(self._tenant, self.session_id)

    async def _record(self) -> None:
        receipt = self._told() if self.done else {}
        if self._ticket is not None:
            # Writing would take the interpreter from the answer that is ready.
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_FIRST_S):
                    await self._ticket.hurry.wait()
        if receipt:
            count_receipt(receipt)
        TURNS.labels("finished" if receipt else "aborted").inc()
        if self._begun is not None:
            await self._end(self._begun, receipt)
        else:
            self._drop_fork()

    def _told(self) -> dict[str, Any]:
        """The turn's receipt, as it is told and recorded."""
        if self._receipt is None:
            learn(self._desk.cost, self.context.generations)
            self._receipt = self._make_receipt()
        return self._receipt

    def _make_receipt(self) -> dict[str, Any]:
        desk, begun = self._desk, self._begun
        receipt = make_receipt(
            self.session_id,
            self.number,
            self.context.generations,
            begun.previous if begun is not None else None,
            desk.fingerprint,
            desk.cost,
        )
        if self._claim is not None:
            receipt["lease"] = self._claim.told()
        changed = prefix_change(self._place, self.context.generations)
        return receipt if changed is None else {**receipt, "prefix_change": changed}

    async def _end(self, begun: BegunTurn, receipt: dict[str, Any]) -> None:
        sessions, generations = self._desk.sessions, self.context.generations
        try:
            if not receipt:
                await sessions.end_turn(begun)
                return
            ending = self._ending(begun)
            await sessions.end_turn(
                begun,
                receipt=receipt,
                fingerprint=self._desk.fingerprint,
                prompt_tokens=receipt["prompt_tokens"],
                output_tokens=sum(g.output_tokens for g in generations),
                finish_reason=generations[-1].finish_reason,
                also=[*self._changes(begun, receipt), *ending.writes, *self.also_at_end],
                ticket=self._ticket,
            )
            self.recorded = True
            self._desk.histories.ended(self._tenant, self.session_id, ending)
        except SessionError as error:
            _count_failure("end", error)

    def _changes(self, begun: BegunTurn, receipt: dict[str, Any]) -> list[Write]:
        """What this turn tells of its history's past."""
        changed = receipt.get("prefix_change")
        return [] if changed is None else [rewritten(begun, changed)]

    def _ending(self, begun: BegunTurn) -> Ending:
        """What this turn adds to its session's history."""
        generations = self.context.generations
        generation = generations[0]
        whole = len(generations) == 1 and self._is_whole(generation)
        return self._desk.histories.ending(
            self._tenant,
            self._model,
            self._place,
            begun.number,
            self._answers,
            array("I", generation.prompt_tokens) if whole else None,
            array("I", generation.answer_tokens) if whole else None,
        )

    def _is_whole(self, generation: Generation) -> bool:
        """Whether the client was given all that the model wrote: a stop string is cut off."""
        if not generation.prompt_tokens or not generation.answer_tokens:
            return False
        ended = generation.answer_tokens[-1] in self._desk.engine.end_of_turn
        return ended or generation.finish_reason == "length"


def _count_failure(step: str, error: SessionError) -> None:
    STATE_FAILURES.labels(step).inc()
    # The database itself logs that it fails; anything else is a defect.
    if not isinstance(error, StateUnavailable):
        logger.error("A turn was not recorded (%s): %s", step, error)
