"""The session service on a real database and a small engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import SessionKey, Tier
from sessions.database import Database
from sessions.identity import session_key
from sessions.models import sessions
from sessions.reconcile import Reconciled
from sessions.repository import SessionRepository
from sessions.service import SessionService
from sessions.types import (
    AuditAction,
    BegunTurn,
    InvalidCursor,
    InvalidSessionId,
    Session,
    SessionBusy,
    SessionNotFound,
    SessionState,
    StateUnavailable,
)
from tests.state_database import Backend


class EngineDown(Exception):
    pass


class SmallEngine:
    """Tokens by session and tier; says which commands came; fails and is interrupted on demand."""

    def __init__(self) -> None:
        self.held: dict[SessionKey, dict[Tier, int]] = {}
        self.commands: list[str] = []
        self.down = False
        self.disk_full = False
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def _command(self, name: str) -> None:
        self.commands.append(name)
        if self.down:
            raise EngineDown
        if self.meanwhile is not None:
            await self.meanwhile()

    def _kv(self, key: SessionKey) -> SessionKv:
        tiers = self.held.get(key, {})
        return SessionKv(
            key,
            known=key in self.held,
            tokens_by_tier=dict(tiers),
            ssd_complete=set(tiers) == {Tier.SSD},
        )

    async def status(self, session: SessionKey) -> SessionKv:
        await self._command("status")
        return self._kv(session)

    async def park(self, session: SessionKey) -> SessionKv:
        await self._command("park")
        if session in self.held and not self.disk_full:
            self.held[session] = {Tier.SSD: max(self.held[session].values())}
        return self._kv(session)

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched:
        await self._command("prefetch")
        tokens = self.held.get(session, {}).get(Tier.SSD, 0)
        if tokens:
            self.held[session][tier] = tokens
        return Prefetched(session, tokens=tokens, complete=True)

    async def drop(self, session: SessionKey) -> Dropped:
        await self._command("drop")
        tiers = self.held.pop(session, None)
        return Dropped(
            session,
            known=tiers is not None,
            chunks=max((tiers or {}).values(), default=0),
            bytes=4096 * max((tiers or {}).values(), default=0),
            key_destroyed=Tier.SSD in (tiers or {}),
        )

    async def held_sessions(self) -> list[SessionKv]:
        await self._command("held_sessions")
        return [self._kv(key) for key in self.held]


class SteppedClock:
    """Every reading is a second later."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open(patient=False)
    yield opened
    await opened.close()


@pytest.fixture
def engine() -> SmallEngine:
    return SmallEngine()


@pytest.fixture
def service(database: Database, engine: SmallEngine) -> SessionService:
    return SessionService(database, engine, SteppedClock())


async def answer(service: SessionService, begun: BegunTurn, tokens: int = 100) -> None:
    await service.end_turn(
        begun,
        receipt={"turn": begun.number},
        fingerprint="fp",
        prompt_tokens=tokens - 10,
        output_tokens=10,
        finish_reason="stop",
    )


async def talk(service: SessionService, session_id: str = "s", turns: int = 1) -> None:
    for _ in range(turns):
        await answer(service, await service.begin_turn("t", session_id, "m"))


async def audited(
    service: SessionService, tenant: str = "t"
) -> list[tuple[str, AuditAction, bool]]:
    rows = (await service.audit(tenant, limit=100)).items
    return [(row.session_id, row.action, row.key_destroyed) for row in rows]


async def state(service: SessionService, session_id: str = "s") -> SessionState:
    return (await service.get("t", session_id)).state


# --- turns ---------------------------------------------------------------------------------------


async def test_the_first_turn_makes_the_session(service: SessionService) -> None:
    begun = await service.begin_turn("t", "s", "m")
    assert (begun.number, begun.is_new, begun.previous) == (1, True, None)
    session = await service.get("t", "s")
    assert (session.state, session.turns, session.running) == (SessionState.ACTIVE, 0, 1)
    assert session.created_at == session.last_active_at == begun.started_at


async def test_the_next_turn_knows_what_the_last_one_left(service: SessionService) -> None:
    await talk(service)
    begun = await service.begin_turn("t", "s", "m2")
    assert begun.number == 2
    assert begun.previous is not None
    assert (begun.previous.fingerprint, begun.previous.tokens) == ("fp", 100)
    assert begun.previous.state is SessionState.IDLE
    assert (await service.get("t", "s")).model == "m2"


async def test_a_session_without_a_name_gets_one(service: SessionService) -> None:
    one, two = [await service.begin_turn("t", None, "m") for _ in range(2)]
    assert one.is_new
    assert two.is_new
    assert one.session_id != two.session_id


async def test_turns_at_once_have_numbers_of_their_own(service: SessionService) -> None:
    begun = await asyncio.gather(*(service.begin_turn("t", "s", "m") for _ in range(12)))
    assert sorted(turn.number for turn in begun) == list(range(1, 13))
    assert sum(turn.is_new for turn in begun) == 1
    for turn in begun[:-1]:
        await answer(service, turn)
        assert await state(service) is SessionState.ACTIVE
    await answer(service, begun[-1])
    session = await service.get("t", "s")
    assert (session.state, session.turns, session.running) == (SessionState.IDLE, 12, 0)


async def test_an_aborted_turn_ends_and_says_nothing_of_the_length(
    service: SessionService,
) -> None:
    await talk(service)
    await service.end_turn(await service.begin_turn("t", "s", "m"))
    session = await service.get("t", "s")
    assert (session.state, session.turns) == (SessionState.IDLE, 2)
    assert (session.tokens, session.fingerprint) == (100, "fp")
    aborted, answered = (await service.turns("t", "s")).items
    assert (aborted.number, aborted.finish_reason, aborted.receipt) == (2, "abort", {})
    assert (answered.number, answered.finish_reason, answered.receipt) == (1, "stop", {"turn": 1})
    assert (answered.prompt_tokens, answered.output_tokens) == (90, 10)
    assert answered.ended_at - answered.started_at == timedelta(seconds=1)


async def test_a_turn_ends_once(service: SessionService) -> None:
    first = await service.begin_turn("t", "s", "m")
    await service.begin_turn("t", "s", "m")
    await answer(service, first)
    await service.end_turn(first)
    session = await service.get("t", "s")
    assert (session.turns, session.running) == (1, 1)
    assert (await service.turns("t", "s")).items[0].finish_reason == "stop"


async def test_an_id_that_cannot_be_is_refused_and_leaves_nothing(service: SessionService) -> None:
    with pytest.raises(InvalidSessionId):
        await service.begin_turn("t", "a/b", "m")
    assert (await service.list("t")).items == ()


async def test_a_begin_that_is_cancelled_leaves_no_running_turn(service: SessionService) -> None:
    cancelled = 0
    for steps in range(12):
        beginning = asyncio.create_task(service.begin_turn("t", f"s{steps}", "m"))
        for _ in range(steps):
            await asyncio.sleep(0)
        beginning.cancel()
        try:
            await service.end_turn(await beginning)  # it was quicker
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled
    assert all(s.running == 0 for s in (await service.list("t", limit=100)).items)


async def test_an_end_that_is_cancelled_is_stored(service: SessionService) -> None:
    cancelled = 0
    for steps in range(1, 12):
        begun = await service.begin_turn("t", "s", "m")
        ending = asyncio.create_task(answer(service, begun))
        for _ in range(steps):
            await asyncio.sleep(0)
        ending.cancel()
        try:
            await ending  # it may have been quicker
        except asyncio.CancelledError:
            cancelled += 1
        session = await service.get("t", "s")
        assert (session.turns, session.running) == (steps, 0)
    assert cancelled


async def test_an_end_that_the_database_refused_is_stored_later(
    service: SessionService, backend: Backend
) -> None:
    begun = await service.begin_turn("t", "s", "m")
    async with backend.locked():
        with pytest.raises(StateUnavailable):
            await answer(service, begun)
        with pytest.raises(StateUnavailable):
            await service.begin_turn("t", "s", "m")
    await talk(service, "another")
    session = await service.get("t", "s")
    assert (session.state, session.turns, session.tokens) == (SessionState.IDLE, 1, 100)


async def test_a_kept_end_ends_no_other_turn_of_its_number(
    service: SessionService, database: Database, engine: SmallEngine, backend: Backend
) -> None:
    begun = await service.begin_turn("t", "s", "m")
    async with backend.locked():
        with pytest.raises(StateUnavailable):
            await answer(service, begun)
    for table, column in (("turns", "session_id"), ("sessions", "id")):
        await backend.ask(f"DELETE FROM {table} WHERE {column} = 's'")
    other = SessionService(database, engine, SteppedClock(), instance="other")
    again = await other.begin_turn("t", "s", "m")
    # At the same moment, under the same number: but another process's.
    assert (again.number, again.started_at) == (begun.number, begun.started_at)
    assert (await service.get("t", "s")).running == 1
    await answer(other, again, 50)
    session = await service.get("t", "s")
    assert (session.turns, session.running, session.tokens) == (1, 0, 50)


async def test_an_end_is_of_the_turn_that_began_then(
    service: SessionService, database: Database
) -> None:
    begun = await service.begin_turn("t", "s", "m")
    earlier = replace(begun, started_at=begun.started_at - timedelta(microseconds=1))
    await answer(service, earlier)
    assert (await service.get("t", "s")).running == 1
    await answer(service, begun)
    assert (await service.get("t", "s")).running == 0


async def test_a_postponed_write_that_is_refused_is_dropped_alone(
    service: SessionService, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    async def no_such_session(connection: AsyncConnection) -> None:
        tried.append("constraint")
        turn = BegunTurn("t", "nobody", 1, datetime(2030, 1, 1, tzinfo=UTC), "", None)
        await SessionRepository(connection).add_turn(turn)

    async def no_value(connection: AsyncConnection) -> None:
        tried.append("value")
        query = select(sessions).where(sessions.c.created_at == datetime(2030, 1, 1))
        await connection.execute(query)

    begun = await service.begin_turn("t", "s", "m")
    service.units.postpone(no_such_session)
    service.units.postpone(no_value)
    async with backend.locked():
        with pytest.raises(StateUnavailable):
            await answer(service, begun)
    # Neither the caller nor a write that came after them pays for it.
    await service.begin_turn("t", "another", "m")
    session = await service.get("t", "s")
    assert (session.turns, session.running, session.tokens) == (1, 0, 100)
    dropped = [record for record in caplog.records if record.name == "sessions.units"]
    assert [record.levelname for record in dropped] == ["WARNING", "WARNING"]
    tries = len(tried)
    await service.get("t", "s")
    assert len(tried) == tries


async def test_an_outage_drops_no_postponed_write(
    service: SessionService, backend: Backend
) -> None:
    begun = await service.begin_turn("t", "s", "m")
    async with backend.locked():
        for _ in range(3):
            with pytest.raises(StateUnavailable):
                await answer(service, begun)
    assert (await service.get("t", "s")).turns == 1


# --- tenants -------------------------------------------------------------------------------------


async def test_equal_ids_of_two_tenants_are_two_sessions(service: SessionService) -> None:
    await talk(service)
    begun = await service.begin_turn("u", "s", "m")
    assert (begun.number, begun.is_new) == (1, True)
    assert await state(service) is SessionState.IDLE
    assert [s.tenant for s in (await service.list("u")).items] == ["u"]


@pytest.mark.parametrize("session_id", ["s", "none", "a/b", "", "\ud800", "\x00"])
async def test_another_tenants_session_is_not_there(
    service: SessionService, engine: SmallEngine, session_id: str
) -> None:
    await talk(service)
    for call in (
        service.get("u", session_id),
        service.turns("u", session_id),
        service.kv("u", session_id),
        service.park("u", session_id),
        service.prefetch("u", session_id, Tier.DRAM, 100),
        service.delete("u", session_id),
    ):
        with pytest.raises(SessionNotFound):
            await call
    assert engine.commands == []


# --- park and prefetch ---------------------------------------------------------------------------


async def parked(service: SessionService, engine: SmallEngine) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.DEVICE: 100, Tier.SSD: 50}
    await service.park("t", "s")


async def test_park_without_room_on_disk_leaves_the_session_as_it_is(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.DEVICE: 100}
    engine.disk_full = True
    kv = await service.park("t", "s")
    assert kv.tokens_by_tier == {Tier.DEVICE: 100}
    assert await state(service) is SessionState.IDLE


async def test_park_asks_the_engine_and_then_says_so(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.DEVICE: 100}

    async def look() -> None:
        assert await state(service) is SessionState.IDLE

    engine.meanwhile = look
    kv = await service.park("t", "s")
    assert kv.tokens_by_tier == {Tier.SSD: 100}
    assert await state(service) is SessionState.PARKED
    engine.meanwhile = None
    await service.park("t", "s")
    assert await state(service) is SessionState.PARKED
    assert (await service.kv("t", "s")).tokens_by_tier == {Tier.SSD: 100}


async def test_a_session_with_a_turn_is_neither_parked_nor_deleted(
    service: SessionService, engine: SmallEngine
) -> None:
    await service.begin_turn("t", "s", "m")
    with pytest.raises(SessionBusy):
        await service.park("t", "s")
    with pytest.raises(SessionBusy):
        await service.delete("t", "s")
    assert engine.commands == []


async def test_a_failing_engine_changes_no_state(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    engine.down = True
    with pytest.raises(EngineDown):
        await service.park("t", "s")
    with pytest.raises(EngineDown):
        await service.delete("t", "s")
    assert await state(service) is SessionState.IDLE
    assert await audited(service) == []
    engine.down = False
    await service.park("t", "s")
    engine.down = True
    with pytest.raises(EngineDown):
        await service.prefetch("t", "s", Tier.DRAM, 100)
    assert await state(service) is SessionState.PARKED


@pytest.mark.parametrize("command", ["park", "delete"])
@pytest.mark.parametrize("ended", [False, True])
async def test_a_turn_in_the_middle_wins(
    service: SessionService, engine: SmallEngine, command: str, ended: bool
) -> None:
    await talk(service)

    async def turn() -> None:
        begun = await service.begin_turn("t", "s", "m")
        if ended:
            await answer(service, begun)

    engine.meanwhile = turn
    with pytest.raises(SessionBusy):
        await getattr(service, command)("t", "s")
    assert await state(service) is (SessionState.IDLE if ended else SessionState.ACTIVE)


async def test_prefetch_resumes_a_parked_session(
    service: SessionService, engine: SmallEngine
) -> None:
    await parked(service, engine)

    async def look() -> None:
        assert await state(service) is SessionState.RESUMING

    engine.meanwhile = look
    assert (await service.prefetch("t", "s", Tier.DRAM, 100)).tokens == 100
    assert await state(service) is SessionState.IDLE


async def test_a_prefetch_that_brings_nothing_leaves_the_session_parked(
    service: SessionService, engine: SmallEngine
) -> None:
    await parked(service, engine)
    engine.held.clear()
    assert (await service.prefetch("t", "s", Tier.DRAM, 100)).tokens == 0
    assert await state(service) is SessionState.PARKED


async def test_a_prefetch_that_is_cancelled_leaves_the_session_parked(
    service: SessionService, engine: SmallEngine
) -> None:
    await parked(service, engine)
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    engine.meanwhile = hang
    task = asyncio.create_task(service.prefetch("t", "s", Tier.DRAM, 100))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await state(service) is SessionState.PARKED


async def test_a_prefetch_that_is_cancelled_twice_leaves_the_session_parked(
    service: SessionService, engine: SmallEngine
) -> None:
    for steps in range(1, 10):
        await parked(service, engine)
        reached = asyncio.Event()

        async def hang(reached: asyncio.Event = reached) -> None:
            reached.set()
            await asyncio.Event().wait()

        engine.meanwhile = hang
        task = asyncio.create_task(service.prefetch("t", "s", Tier.DRAM, 100))
        await reached.wait()
        task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await state(service) is SessionState.PARKED
        engine.meanwhile = None


async def test_prefetch_of_an_idle_session_is_advice(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    await service.prefetch("t", "s", Tier.DRAM, 100)
    assert engine.commands == ["prefetch"]
    assert await state(service) is SessionState.IDLE


@pytest.mark.parametrize("ended", [False, True])
async def test_a_turn_during_a_prefetch_decides_the_state(
    service: SessionService, engine: SmallEngine, ended: bool
) -> None:
    await parked(service, engine)

    async def turn() -> None:
        begun = await service.begin_turn("t", "s", "m")
        assert begun.previous is not None
        assert begun.previous.state is SessionState.RESUMING
        if ended:
            await answer(service, begun)

    engine.meanwhile = turn
    await service.prefetch("t", "s", Tier.DRAM, 100)
    assert await state(service) is (SessionState.IDLE if ended else SessionState.ACTIVE)


async def test_an_expired_session_stays_expired_until_its_next_turn(
    service: SessionService, database: Database
) -> None:
    await talk(service)
    await put_in_state(database, "s", SessionState.EXPIRED)
    await service.park("t", "s")
    await service.prefetch("t", "s", Tier.DRAM, 100)
    assert await state(service) is SessionState.EXPIRED
    begun = await service.begin_turn("t", "s", "m")
    assert begun.previous is not None
    assert begun.previous.state is SessionState.EXPIRED
    assert await state(service) is SessionState.ACTIVE


# --- delete --------------------------------------------------------------------------------------


async def test_delete_leaves_nothing(
    service: SessionService, engine: SmallEngine, backend: Backend
) -> None:
    await talk(service, turns=3)
    engine.held[session_key("t", "s")] = {Tier.SSD: 100}
    assert (await service.delete("t", "s")).known
    assert engine.held == {}
    with pytest.raises(SessionNotFound):
        await service.get("t", "s")
    assert await backend.ask("SELECT count(*) FROM turns") == 0
    again = await service.begin_turn("t", "s", "m")
    assert (again.number, again.is_new) == (1, True)


async def test_a_new_session_under_the_old_name_is_another(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)

    async def replaced() -> None:
        engine.meanwhile = None
        await service.delete("t", "s")
        await talk(service)

    engine.meanwhile = replaced
    with pytest.raises(SessionBusy):
        await service.park("t", "s")
    assert await state(service) is SessionState.IDLE


# --- pages ---------------------------------------------------------------------------------------


async def walk(service: SessionService, limit: int, state: SessionState | None = None) -> list[str]:
    seen: list[str] = []
    after: str | None = None
    for _ in range(20):
        page = await service.list("t", state, limit, after)
        assert len(page.items) <= limit
        seen += [session.id for session in page.items]
        after = page.next
        if after is None:
            return seen
    raise AssertionError("the listing does not end")


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
async def test_every_page_size_lists_every_session_once(
    service: SessionService, limit: int
) -> None:
    for number in range(6):
        await talk(service, f"s{number}")
    assert await walk(service, limit) == ["s5", "s4", "s3", "s2", "s1", "s0"]


async def test_sessions_of_one_moment_are_all_listed(
    database: Database, engine: SmallEngine
) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    service = SessionService(database, engine, lambda: moment)
    for name in "bca":
        await talk(service, name)
    assert await walk(service, 1) == ["c", "b", "a"]


async def test_a_page_can_be_of_one_state(service: SessionService) -> None:
    for number in range(4):
        await talk(service, f"s{number}")
    await service.park("t", "s1")
    await service.park("t", "s3")
    assert await walk(service, 1, SessionState.PARKED) == ["s3", "s1"]


async def test_what_happens_between_pages_hides_nothing(service: SessionService) -> None:
    for number in range(4):
        await talk(service, f"s{number}")
    first = await service.list("t", limit=2)
    await talk(service, "new")
    await talk(service, "s0")
    await service.delete("t", first.items[-1].id)
    rest = await service.list("t", limit=2, after=first.next)
    assert [session.id for session in rest.items] == ["s1", "s0"]


async def test_turns_are_paged_newest_first_and_running_ones_are_not_shown(
    service: SessionService,
) -> None:
    await talk(service, turns=5)
    await service.begin_turn("t", "s", "m")
    first = await service.turns("t", "s", limit=3)
    rest = await service.turns("t", "s", limit=3, after=first.next)
    assert [turn.number for turn in (*first.items, *rest.items)] == [5, 4, 3, 2, 1]
    assert rest.next is None


async def test_a_cursor_of_another_listing_is_refused(service: SessionService) -> None:
    await talk(service, turns=2)
    cursor = (await service.turns("t", "s", limit=1)).next
    with pytest.raises(InvalidCursor):
        await service.list("t", after=cursor)


# --- audit ---------------------------------------------------------------------------------------


DELETED, DROPPED = AuditAction.SESSION_DELETED, AuditAction.KV_DROPPED


async def test_a_deletion_leaves_one_row(service: SessionService, engine: SmallEngine) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.SSD: 3}
    begun = (await service.get("t", "s")).last_active_at
    await service.delete("t", "s")
    with pytest.raises(SessionNotFound):
        await service.delete("t", "s")
    (row,) = (await service.audit("t")).items
    assert (row.tenant, row.session_id, row.action) == ("t", "s", DELETED)
    assert (row.key_destroyed, row.chunks, row.bytes) == (True, 3, 3 * 4096)
    assert begun < row.at
    assert await audited(service, "u") == []


async def test_a_session_of_the_same_name_adds_a_row(
    service: SessionService, engine: SmallEngine
) -> None:
    for destroyed in (True, False):
        await talk(service)
        engine.held[session_key("t", "s")] = {Tier.SSD if destroyed else Tier.DRAM: 3}
        await service.delete("t", "s")
    assert await audited(service) == [("s", DELETED, False), ("s", DELETED, True)]


async def test_two_deletions_at_once_leave_one_row(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.SSD: 3}
    both = (service.delete("t", "s"), service.delete("t", "s"))
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sum(isinstance(result, SessionNotFound) for result in results) == 1
    assert await audited(service) == [("s", DELETED, True)]


async def test_kv_that_a_kept_session_lost_has_its_row(
    service: SessionService, engine: SmallEngine
) -> None:
    await talk(service)
    engine.held[session_key("t", "s")] = {Tier.SSD: 3}

    async def turn() -> None:
        await service.begin_turn("t", "s", "m")

    engine.meanwhile = turn
    with pytest.raises(SessionBusy):
        await service.delete("t", "s")
    assert await state(service) is SessionState.ACTIVE
    assert await audited(service) == [("s", DROPPED, True)]


@pytest.mark.parametrize("broken", ["INSERT ON audit", "DELETE ON sessions"])
async def test_the_session_and_its_row_change_together(
    service: SessionService, backend: Backend, broken: str
) -> None:
    await talk(service)
    async with backend.refusing(broken):
        with pytest.raises(StateUnavailable):
            await service.delete("t", "s")
        assert await state(service) is SessionState.IDLE
        assert await audited(service) == []
    await service.delete("t", "s")
    assert await audited(service) == [("s", DELETED, False)]


async def test_a_deletion_that_is_cancelled_after_the_drop_is_completed(
    service: SessionService, engine: SmallEngine
) -> None:
    for steps in range(10):
        await talk(service)
        engine.held[session_key("t", "s")] = {Tier.SSD: 3}
        reached = asyncio.Event()

        async def note(reached: asyncio.Event = reached) -> None:
            reached.set()

        engine.meanwhile = note
        deleting = asyncio.create_task(service.delete("t", "s"))
        await reached.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        assert (await service.list("t")).items == ()
        assert await audited(service) == [("s", DELETED, True)] * (steps + 1)


async def test_every_page_size_lists_every_row_once(service: SessionService) -> None:
    for number in range(5):
        await talk(service, f"s{number}")
        await service.delete("t", f"s{number}")
    for limit in (1, 2, 5, 6):
        seen: list[str] = []
        page = await service.audit("t", limit)
        while True:
            assert len(page.items) <= limit
            seen += [row.session_id for row in page.items]
            if page.next is None:
                break
            page = await service.audit("t", limit, page.next)
        assert seen == ["s4", "s3", "s2", "s1", "s0"]


async def test_a_cursor_that_the_audit_did_not_give_is_refused(service: SessionService) -> None:
    for name in ("a", "b"):
        await talk(service, name, turns=2)
    of_sessions = (await service.list("t", limit=1)).next
    of_turns = (await service.turns("t", "a", limit=1)).next
    for cursor in (of_sessions, of_turns, "", "?", "x" * 600):
        with pytest.raises(InvalidCursor):
            await service.audit("t", after=cursor)


# --- reconcile -----------------------------------------------------------------------------------


async def put_in_state(database: Database, session_id: str, state: SessionState) -> None:
    async with database.transaction() as repo:
        session = await repo.find("t", session_id)
        assert session is not None
        values = {name: getattr(session, name) for name in Session.__slots__}
        await repo.save(Session(**(values | {"state": state})))


ONLY_SSD = {Tier.SSD: 100}
ALSO_DRAM = {Tier.SSD: 100, Tier.DRAM: 100}


@pytest.mark.parametrize(
    ("before", "held", "after"),
    [
        (SessionState.ACTIVE, ONLY_SSD, SessionState.PARKED),
        (SessionState.ACTIVE, ALSO_DRAM, SessionState.IDLE),
        (SessionState.ACTIVE, None, SessionState.IDLE),
        (SessionState.RESUMING, ONLY_SSD, SessionState.PARKED),
        (SessionState.RESUMING, ALSO_DRAM, SessionState.IDLE),
        (SessionState.RESUMING, None, SessionState.IDLE),
        (SessionState.IDLE, ONLY_SSD, SessionState.PARKED),
        (SessionState.IDLE, ALSO_DRAM, SessionState.IDLE),
        (SessionState.IDLE, None, SessionState.IDLE),
        (SessionState.PARKED, ONLY_SSD, SessionState.PARKED),
        (SessionState.PARKED, None, SessionState.PARKED),
        (SessionState.EXPIRED, None, SessionState.EXPIRED),
    ],
)
async def test_a_restart_puts_a_session_where_its_kv_is(
    service: SessionService,
    database: Database,
    engine: SmallEngine,
    before: SessionState,
    held: dict[Tier, int] | None,
    after: SessionState,
) -> None:
    await talk(service)
    if before is SessionState.ACTIVE:
        await service.begin_turn("t", "s", "m")
        await service.begin_turn("t", "s", "m")
    else:
        await put_in_state(database, "s", before)
    if held is not None:
        engine.held[session_key("t", "s")] = held
    interrupted = before in (SessionState.ACTIVE, SessionState.RESUMING)

    report = await SessionService(database, engine, SteppedClock()).reconcile()

    session = await service.get("t", "s")
    assert (session.state, session.running) == (after, 0)
    assert report == Reconciled(
        aborted_turns=2 if before is SessionState.ACTIVE else 0,
        parked=int(after is SessionState.PARKED and before is not SessionState.PARKED),
        idle=int(interrupted and after is SessionState.IDLE),
        dropped=0,
        failed_drops=0,
    )
    if before is SessionState.ACTIVE:
        reasons = [turn.finish_reason for turn in (await service.turns("t", "s")).items]
        assert reasons == ["abort", "abort", "stop"]
        assert (await service.begin_turn("t", "s", "m")).number == 4


async def test_kv_that_belongs_to_nobody_is_dropped(
    service: SessionService, engine: SmallEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await talk(service)
    mine = session_key("t", "s")
    for key in (mine, session_key("u", "s"), session_key("t", "gone"), SessionKey("nonsense")):
        engine.held[key] = {Tier.SSD: 1}
    caplog.set_level("INFO", "sessions.reconcile")
    assert (await service.reconcile()).dropped == 3
    assert list(engine.held) == [mine]
    assert len(caplog.records) == 1
    assert await audited(service) == [("gone", DROPPED, True)]
    assert await audited(service, "u") == [("s", DROPPED, True)]
    # Under a name that no tenant can have.
    assert await audited(service, "") == [("nonsense", DROPPED, True)]


async def test_kv_that_cannot_be_dropped_does_not_stop_the_start(
    service: SessionService, engine: SmallEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        engine.held[session_key("t", f"s{number}")] = {Tier.SSD: 1}

    async def fail_drops() -> None:
        if engine.commands[-1] == "drop":
            raise EngineDown

    engine.meanwhile = fail_drops
    report = await service.reconcile()
    assert (report.dropped, report.failed_drops) == (0, 3)
    assert await audited(service) == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_database_that_takes_no_rows_ends_the_dropping(
    service: SessionService, engine: SmallEngine, backend: Backend
) -> None:
    for number in range(3):
        engine.held[session_key("t", f"s{number}")] = {Tier.SSD: 1}
    async with backend.refusing("INSERT ON audit"):
        with pytest.raises(StateUnavailable):
            await service.reconcile()
    assert len(engine.held) == 2


async def test_an_engine_that_cannot_say_what_it_holds_changes_nothing(
    service: SessionService, engine: SmallEngine
) -> None:
    await service.begin_turn("t", "s", "m")
    engine.down = True
    with pytest.raises(EngineDown):
        await service.reconcile()
    assert await state(service) is SessionState.ACTIVE


async def test_more_sessions_than_one_query_names(
    database: Database, engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.repository._KEYS_A_QUERY", 2)
    service = SessionService(database, engine, SteppedClock())
    for number in range(5):
        await talk(service, f"s{number}")
        engine.held[session_key("t", f"s{number}")] = dict(ONLY_SSD)
    assert (await service.reconcile()).parked == 5


async def test_a_park_where_another_process_has_the_kv_changes_nothing(
    database: Database,
) -> None:
    there = SessionService(database, SmallEngine(), SteppedClock(), instance="there")
    await answer(there, await there.begin_turn("t", "s", "m"))
    here = SessionService(database, SmallEngine(), SteppedClock(), instance="here")
    assert not (await here.park("t", "s")).known
    assert (await here.get("t", "s")).state is SessionState.IDLE
