"""Any order of begins, ends, parks, prefetches and deletes, overlapping at will, does what a small
model says: legal changes of state only, and turns numbered 1..n."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import SessionKey, Tier
from sessions.database import Database, open_database
from sessions.service import SessionService
from sessions.types import (
    LEGAL_TRANSITIONS,
    BegunTurn,
    SessionBusy,
    SessionNotFound,
    SessionState,
)

NAMES = ("a", "b")
names = st.sampled_from(NAMES)
picks = st.integers(min_value=0, max_value=99)
numbers_of_examples = itertools.count()


class EngineDown(Exception):
    pass


class GatedEngine:
    """Every command waits at its gate until the test says how it ends."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Future[int]] = []
        self.reached = asyncio.Event()

    async def _gate(self) -> int:
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        self.reached.set()
        return await gate

    async def status(self, session: SessionKey) -> SessionKv:
        return SessionKv(session, known=False)

    async def park(self, session: SessionKey) -> SessionKv:
        await self._gate()
        return SessionKv(session, known=True, ssd_complete=True)

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched:
        return Prefetched(session, tokens=await self._gate(), complete=True)

    async def drop(self, session: SessionKey) -> Dropped:
        await self._gate()
        return Dropped(session, known=True)

    async def held_sessions(self) -> list[SessionKv]:
        return []


@dataclass
class Model:
    """What a session should look like."""

    incarnation: int
    state: SessionState = SessionState.ACTIVE
    begun: int = 0
    tokens: int = 0
    running: list[BegunTurn] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    @property
    def version(self) -> tuple[int, int, int]:
        return self.incarnation, len(self.ended), len(self.running)


@dataclass
class Pending:
    """An operation that waits in the engine."""

    kind: str
    name: str
    version: tuple[int, int, int]
    resuming: bool
    task: "asyncio.Task[Any]"
    gate: "asyncio.Future[int]"


class Sessions(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.run = runner.run
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.engine = GatedEngine()
        self.service = SessionService(database, self.engine, self.tick)
        # One database serves all examples; tenants do not meet.
        self.tenant = f"tenant-{next(numbers_of_examples)}"
        self.model: dict[str, Model] = {}
        self.seen: dict[str, tuple[int, SessionState]] = {}
        self.pending: list[Pending] = []
        self.incarnations = itertools.count()

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    # --- turns -----------------------------------------------------------------------------------

    @rule(name=names, at_once=st.integers(min_value=1, max_value=3))
    def begin(self, name: str, at_once: int) -> None:
        async def all_begin() -> list[BegunTurn]:
            begin = self.service.begin_turn
            return list(
                await asyncio.gather(*(begin(self.tenant, name, "m") for _ in range(at_once)))
            )

        known = name in self.model
        begun = self.run(all_begin())
        assert sum(turn.is_new for turn in begun) == (0 if known else 1)
        model = self.model.setdefault(name, Model(next(self.incarnations)))
        assert {turn.number for turn in begun} == {
            model.begun + place for place in range(1, at_once + 1)
        }
        model.begun += at_once
        model.running += begun
        model.state = SessionState.ACTIVE

    @precondition(lambda self: any(model.running for model in self.model.values()))
    @rule(pick=picks, tokens=st.integers(min_value=0, max_value=9), twice=st.booleans())
    def end(self, pick: int, tokens: int, twice: bool) -> None:
        """Zero tokens stand for an abort."""
        running = [(name, turn) for name, m in self.model.items() for turn in m.running]
        name, turn = running[pick % len(running)]
        answer: dict[str, Any] = {"receipt": {"turn": turn.number}, "prompt_tokens": tokens}
        for _ in range(2 if twice else 1):
            self.run(self.service.end_turn(turn, **(answer if tokens else {})))
        model = self.model[name]
        model.running.remove(turn)
        model.ended.add(turn.number)
        model.tokens = tokens or model.tokens
        if not model.running:
            model.state = SessionState.IDLE

    # --- operations in the engine ----------------------------------------------------------------

    @rule(name=names, kind=st.sampled_from(["park", "prefetch", "delete"]))
    def start(self, name: str, kind: str) -> None:
        task = self.run(self._until_gate(name, kind))
        model = self.model.get(name)
        if model is None:
            assert isinstance(task.exception(), SessionNotFound)
        elif kind != "prefetch" and model.running:
            assert isinstance(task.exception(), SessionBusy)
        else:
            if kind == "prefetch" and model.state is SessionState.PARKED:
                model.state = SessionState.RESUMING
            resuming = model.state is SessionState.RESUMING
            gate = self.engine.gates.pop()
            self.pending.append(Pending(kind, name, model.version, resuming, task, gate))

    @precondition(lambda self: self.pending)
    @rule(pick=picks, how=st.sampled_from(["well", "well", "empty", "fault", "cancel"]))
    def finish(self, pick: int, how: str) -> None:
        pending = self.pending.pop(pick % len(self.pending))
        error = self.run(self._outcome(pending, how))
        model = self.model.get(pending.name)
        if pending.kind == "prefetch":
            if pending.resuming and model and model.state is SessionState.RESUMING:
                model.state = SessionState.IDLE if how == "well" else SessionState.PARKED
        elif how in ("well", "empty"):
            if model is None:
                assert isinstance(error, SessionNotFound)
            elif model.version != pending.version:
                assert isinstance(error, SessionBusy)
            elif pending.kind == "park":
                model.state = SessionState.PARKED
            else:
                del self.model[pending.name]
            return
        expected = {"fault": EngineDown, "cancel": asyncio.CancelledError}.get(how)
        assert error is None if expected is None else isinstance(error, expected)

    async def _until_gate(self, name: str, kind: str) -> "asyncio.Task[Any]":
        extra = (Tier.DRAM, 1000) if kind == "prefetch" else ()
        self.engine.reached.clear()
        task = asyncio.create_task(getattr(self.service, kind)(self.tenant, name, *extra))
        reached = asyncio.create_task(self.engine.reached.wait())
        await asyncio.wait((task, reached), return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        return task

    async def _outcome(self, pending: Pending, how: str) -> BaseException | None:
        if how == "cancel":
            pending.task.cancel()
        elif how == "fault":
            pending.gate.set_exception(EngineDown())
        else:
            pending.gate.set_result(8 if how == "well" else 0)
        (result,) = await asyncio.gather(pending.task, return_exceptions=True)
        return result if isinstance(result, BaseException) else None

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def matches_the_model(self) -> None:
        page = self.run(self.service.list(self.tenant))
        sessions = {session.id: session for session in page.items}
        assert sessions.keys() == self.model.keys()
        for name, model in self.model.items():
            session = sessions[name]
            assert (session.state, session.turns, session.running, session.tokens) == (
                model.state,
                len(model.ended),
                len(model.running),
                model.tokens,
            )
            turns = self.run(self.service.turns(self.tenant, name, limit=100)).items
            assert {turn.number for turn in turns} == model.ended
            running = {turn.number for turn in model.running}
            assert sorted(model.ended | running) == list(range(1, model.begun + 1))

    @invariant()
    def changes_legally(self) -> None:
        for name in NAMES:
            model = self.model.get(name)
            if model is None:
                self.seen.pop(name, None)
                continue
            incarnation, old = self.seen.get(name, (model.incarnation, model.state))
            if incarnation == model.incarnation and old is not model.state:
                assert (old, model.state) in LEGAL_TRANSITIONS
            self.seen[name] = (model.incarnation, model.state)

    def teardown(self) -> None:
        for pending in self.pending:
            self.run(self._outcome(pending, "cancel"))


def test_sessions_follow_the_model(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        database = runner.run(open_database(f"sqlite:///{tmp_path / 'state.db'}"))
        try:
            run_state_machine_as_test(
                lambda: Sessions(runner, database),
                settings=settings(
                    max_examples=30,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
