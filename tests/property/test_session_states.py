"""Any order of begins, ends, parks, prefetches, deletes, forks, rollbacks and expiries, overlapping
at will, does what a small model says: legal changes of state only, turns numbered 1..n, a history
that goes back and on, an event of all that happened, and an audit row of all that was dropped, and
of nothing else."""

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
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import SessionKey, Tier
from sessions.database import Database, open_database
from sessions.lineage import LineageService
from sessions.service import SessionService
from sessions.types import (
    LEGAL_TRANSITIONS,
    AuditAction,
    BegunTurn,
    SessionBusy,
    SessionError,
    SessionExists,
    SessionNotFound,
    SessionState,
    Terms,
    TurnNotFound,
)
from sessions.upkeep.expiry import Expiry

NAMES = ("a", "b")
TERMS = Terms(ttl_s=3600)
RESTING = (SessionState.IDLE, SessionState.PARKED)
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

    async def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> SessionKv:
        return SessionKv(child, known=False)

    async def truncate(self, session: SessionKey, tokens: int) -> SessionKv:
        return SessionKv(session, known=False)


@dataclass
class Model:
    """What a session should look like."""

    incarnation: int
    state: SessionState = SessionState.ACTIVE
    begun: int = 0
    tokens: int = 0
    running: list[BegunTurn] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    base: int = 0
    """Tokens in front of turn 1."""
    head: int = 0
    answered: dict[int, int] = field(default_factory=dict)
    """Tokens of the conversation at the end of each turn that was not rolled back."""
    parent: tuple[str, int] | None = None

    def tokens_at(self, turn: int) -> int | None:
        if turn == 0:
            return self.base
        return self.answered.get(turn) if turn <= self.head else None

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
        self.database = database
        self.service = SessionService(database, self.engine, self.tick, terms=TERMS)
        self.lineage = LineageService(self.service.units, self.engine, self.tick, terms=TERMS)
        self.told: dict[str, list[str]] = {name: [] for name in NAMES}
        # One database serves all examples; tenants do not meet.
        self.tenant = f"tenant-{next(numbers_of_examples)}"
        self.model: dict[str, Model] = {}
        self.seen: dict[str, tuple[int, SessionState]] = {}
        self.pending: list[Pending] = []
        self.incarnations = itertools.count()
        self.dropped: list[tuple[str, AuditAction]] = []

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    # --- turns -----------------------------------------------------------------------------------

    @initialize(answers=st.integers(min_value=0, max_value=3))
    def some_turns(self, answers: int) -> None:
        for number in range(answers):
            self.begin("a", 1)
            self.end(0, number + 1, twice=False)

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
        if not known:
            self.told[name].append("created")
        elif self.model[name].state in (SessionState.PARKED, SessionState.EXPIRED):
            self.told[name].append("resumed")
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
        if tokens:
            model.tokens = model.answered[turn.number] = tokens
            model.head = turn.number
        if not model.running:
            model.state = SessionState.IDLE

    # --- lineage and time ------------------------------------------------------------------------

    @rule(name=names, child=names, turn=st.integers(min_value=0, max_value=4))
    def fork(self, name: str, child: str, turn: int) -> None:
        error, parent = None, self.model.get(name)
        try:
            self.run(self.lineage.fork(self.tenant, name, turn, child))
        except SessionError as raised:
            error = raised
        tokens = parent.tokens_at(turn) if parent is not None else None
        if parent is None:
            assert isinstance(error, SessionNotFound)
        elif tokens is None:
            assert isinstance(error, TurnNotFound)
        elif child in self.model:
            assert isinstance(error, SessionExists)
        else:
            assert error is None
            self.model[child] = Model(
                next(self.incarnations),
                state=SessionState.IDLE,
                tokens=tokens,
                base=tokens,
                parent=(name, turn),
            )
            self.told[child] += ["created", "forked"]
            self.told[name].append("forked")

    @rule(name=names, turn=st.integers(min_value=0, max_value=4))
    def roll_back(self, name: str, turn: int) -> None:
        error, model = None, self.model.get(name)
        try:
            self.run(self.lineage.rollback(self.tenant, name, turn=turn))
        except SessionError as raised:
            error = raised
        if model is None:
            assert isinstance(error, SessionNotFound)
        elif model.running:
            assert isinstance(error, SessionBusy)
        elif (tokens := model.tokens_at(turn)) is None:
            assert isinstance(error, TurnNotFound)
        else:
            assert error is None
            model.head, model.tokens = turn, tokens
            model.answered = {n: t for n, t in model.answered.items() if n <= turn}
            self.told[name].append("rolled_back")

    @precondition(lambda self: any(m.state in RESTING for m in self.model.values()))
    @rule()
    def expire(self) -> None:
        async def all_due() -> None:
            async with self.database.begin() as connection:
                await Expiry(TERMS).expire(connection, self.now + timedelta(hours=2), 10_000)

        self.run(all_due())
        for name, model in self.model.items():
            if model.state in RESTING:
                model.state = SessionState.EXPIRED
                self.told[name].append("expired")

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
                if how == "well":
                    self.told[pending.name].append("resumed")
        elif how in ("well", "empty"):
            if pending.kind == "delete":
                deleted = model is not None and model.version == pending.version
                action = AuditAction.SESSION_DELETED if deleted else AuditAction.KV_DROPPED
                self.dropped.append((pending.name, action))
            if model is None:
                assert isinstance(error, SessionNotFound)
            elif model.version != pending.version:
                assert isinstance(error, SessionBusy)
            elif pending.kind == "park":
                if model.state not in (SessionState.PARKED, SessionState.EXPIRED):
                    model.state = SessionState.PARKED
                    self.told[pending.name].append("parked")
            else:
                del self.model[pending.name]
                self.told[pending.name].append("deleted")
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
            parent = (session.parent_id, session.parent_turn) if session.parent_id else None
            assert (session.head_turn, parent) == (model.head, model.parent)
            turns = self.run(self.service.turns(self.tenant, name, limit=100)).items
            kept = {turn.number for turn in turns if turn.receipt and not turn.rolled_back}
            assert kept == model.answered.keys()
            assert {turn.number for turn in turns} == model.ended
            running = {turn.number for turn in model.running}
            assert sorted(model.ended | running) == list(range(1, model.begun + 1))

    @invariant()
    def every_event_is_told_once(self) -> None:
        for name, told in self.told.items():
            if told:
                events = self.run(self.service.events(self.tenant, name, limit=100)).items
                assert [event.kind for event in reversed(events)] == told

    @invariant()
    def every_drop_has_its_row(self) -> None:
        rows = self.run(self.service.audit(self.tenant, limit=100)).items
        assert [(row.session_id, row.action) for row in reversed(rows)] == self.dropped

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
                    max_examples=40,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
