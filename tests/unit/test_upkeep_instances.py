"""Several processes on one database: who served what, what the dead leave, what is to be dropped
elsewhere."""

import asyncio
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.hints import Dropped
from cache_tiers.types import SessionKey
from sessions.database import Database
from sessions.identity import session_key
from sessions.installation import check_secret
from sessions.reconcile import reconcile
from sessions.service import SessionService
from sessions.types import SessionState, StateUnavailable
from sessions.upkeep.heartbeat import INTERVAL_S, MAX_GAP, Heartbeat
from sessions.upkeep.instances import (
    DEAD_AFTER,
    FORGOTTEN_AFTER,
    beat,
    end_turns_of_dead,
    forget_dead,
    load_instance,
    rest_of_dead,
)
from sessions.upkeep.orders import Orders, order_drop
from sessions.upkeep.placements import holders
from tests.state_database import Backend

START = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Engine:
    """Holds KV of sessions, or does not."""

    def __init__(self) -> None:
        self.held: set[SessionKey] = set()
        self.drops = 0

    async def drop(self, session: SessionKey) -> Dropped:
        self.drops += 1
        known = session in self.held
        self.held.discard(session)
        return Dropped(session, known=known, chunks=2 * known, key_destroyed=known)

    async def held_sessions(self) -> list[object]:
        return []


class Process:
    def __init__(self, database: Database, clock: Clock, name: str) -> None:
        self.name, self.engine = name, Engine()
        self.sessions = SessionService(database, self.engine, clock, instance=name)  # type: ignore[arg-type]
        self.orders = Orders(self.sessions.units, self.engine, clock, name)  # type: ignore[arg-type]

    async def turn(self, session_id: str = "s") -> None:
        begun = await self.sessions.begin_turn("t", session_id, "m")
        await self.sessions.end_turn(begun, receipt={"turn": begun.number})
        self.engine.held.add(session_key("t", session_id))


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def processes(database: Database, clock: Clock) -> tuple[Process, Process]:
    one, two = Process(database, clock, "one"), Process(database, clock, "two")
    for process in (one, two):
        await see(database, process.name, clock.now)
    return one, two


async def see(database: Database, name: str, now: datetime) -> None:
    async with database.begin() as connection:
        await beat(connection, name, now)


async def kinds(process: Process) -> list[tuple[str, object]]:
    page = await process.sessions.events("t", "s")
    return [(event.kind, event.details.get("turn")) for event in reversed(page.items)]


def test_a_process_has_a_name_of_its_own_that_stays(tmp_path: Path) -> None:
    file = tmp_path / "home" / "instance"
    name = load_instance(file)
    assert load_instance(file) == name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_instance(tmp_path / "other" / "instance") != name
    file.write_text("nonsense")
    with pytest.raises(StateUnavailable, match="move it away"):
        load_instance(file)
    with pytest.raises(StateUnavailable, match="cannot be used"):
        load_instance(file / "below")


async def test_only_the_turns_of_the_dead_are_ended(
    database: Database, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    await one.sessions.begin_turn("t", "s", "m")
    await one.sessions.begin_turn("t", "s", "m")
    alive = await two.sessions.begin_turn("t", "s", "m")
    clock.now += DEAD_AFTER + timedelta(seconds=1)
    await see(database, "two", clock.now)
    async with database.begin() as connection:
        assert await end_turns_of_dead(connection, clock.now, 1) == 1
    async with database.begin() as connection:
        assert await end_turns_of_dead(connection, clock.now, 10) == 1
        assert await end_turns_of_dead(connection, clock.now, 10) == 0
    session = await one.sessions.get("t", "s")
    assert (session.state, session.turns, session.running) == (SessionState.ACTIVE, 2, 1)
    await two.sessions.end_turn(alive, receipt={"turn": 3})
    session = await one.sessions.get("t", "s")
    assert (session.state, session.turns, session.running) == (SessionState.IDLE, 3, 0)
    aborted = [turn for kind, turn in await kinds(one) if kind == "turn_aborted"]
    assert sorted(aborted) == [1, 2]


async def abort_dead(database: Database, clock: Clock, heartbeat: Heartbeat) -> int:
    async with database.begin() as connection:
        return await heartbeat.judging(end_turns_of_dead)(connection, clock.now, 10)


async def beat_for(heartbeat: Heartbeat, clock: Clock, time: timedelta) -> None:
    """Beat after beat, at the usual distance."""
    until = clock.now + time
    while clock.now < until:
        clock.now += timedelta(seconds=INTERVAL_S)
        await heartbeat.beat()


async def test_who_comes_back_first_after_an_outage_judges_nobody(
    database: Database, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, _ = processes
    heartbeats = [Heartbeat(database, clock, name) for name in ("one", "two")]
    of_one, of_two = heartbeats
    begun = await one.sessions.begin_turn("t", "s", "m")
    for _ in range(13):
        clock.now += timedelta(seconds=INTERVAL_S)
        for heartbeat in heartbeats:
            await heartbeat.beat()
    assert of_two.judges(clock.now)
    clock.now += timedelta(hours=1)  # nobody reaches the database
    assert await abort_dead(database, clock, of_two) == 0
    await of_two.beat()
    assert await abort_dead(database, clock, of_two) == 0
    await beat_for(of_two, clock, DEAD_AFTER / 2)
    await of_one.beat()
    await beat_for(of_two, clock, DEAD_AFTER / 2)
    assert of_two.judges(clock.now)
    assert await abort_dead(database, clock, of_two) == 0
    await one.sessions.end_turn(begun, receipt={"turn": 1}, prompt_tokens=9)
    assert (await one.sessions.get("t", "s")).tokens == 9
    # The one that stays away is dead all the same.
    await one.sessions.begin_turn("t", "s", "m")
    await beat_for(of_two, clock, 2 * DEAD_AFTER)
    assert await abort_dead(database, clock, of_two) == 1


async def test_beats_count_while_there_is_no_gap(database: Database, clock: Clock) -> None:
    heartbeat = Heartbeat(database, clock, "one")
    assert not heartbeat.judges(clock.now)
    await heartbeat.beat()
    while clock.now < START + DEAD_AFTER:
        assert not heartbeat.judges(clock.now)
        clock.now += MAX_GAP
        await heartbeat.beat()
    assert heartbeat.judges(clock.now + MAX_GAP)
    assert not heartbeat.judges(clock.now + MAX_GAP + timedelta(microseconds=1))
    for jump in (MAX_GAP + timedelta(microseconds=1), -timedelta(hours=1)):
        clock.now += jump
        await heartbeat.beat()
        assert not heartbeat.judges(clock.now)
        await beat_for(heartbeat, clock, DEAD_AFTER)
        assert heartbeat.judges(clock.now)


async def test_a_beat_that_fails_is_said_once_and_ends_nothing(
    database: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults: list[None] = []
    heartbeat = Heartbeat(database, clock, "one", lambda: faults.append(None), interval_s=0)
    beats = 0

    async def fails_at_first(connection: AsyncConnection, instance: str, now: datetime) -> None:
        nonlocal beats
        beats += 1
        if beats <= 2:
            raise RuntimeError
        await beat(connection, instance, now)
        heartbeat.stop()

    monkeypatch.setattr("sessions.upkeep.heartbeat.beat", fails_at_first)
    async with asyncio.timeout(10):
        await heartbeat.run()
    assert (beats, len(faults)) == (3, 2)
    assert caplog.text.count("the heartbeat failed") == 1


async def test_a_process_that_lives_keeps_its_turns(
    database: Database, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, _ = processes
    await one.sessions.begin_turn("t", "s", "m")
    clock.now += 100 * DEAD_AFTER
    await see(database, "one", clock.now)
    async with database.begin() as connection:
        assert await end_turns_of_dead(connection, clock.now, 10) == 0


async def test_a_restart_settles_what_the_process_itself_served(
    database: Database, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    await one.sessions.begin_turn("t", "s", "m")
    await two.sessions.begin_turn("t", "s", "m")
    await two.sessions.begin_turn("t", "other", "m")
    report = await reconcile(database, one.engine, clock, "one")  # type: ignore[arg-type]
    assert report.aborted_turns == 1
    assert (await one.sessions.get("t", "s")).running == 1
    assert (await one.sessions.get("t", "other")).running == 1


async def test_a_prefetch_that_died_leaves_its_session_parked(
    database: Database, backend: Backend, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, _ = processes
    await one.turn()
    await backend.ask("UPDATE sessions SET state = 'resuming'")
    async with database.begin() as connection:
        assert await rest_of_dead(connection, clock.now, 10) == 0
    clock.now += DEAD_AFTER + timedelta(seconds=1)
    async with database.begin() as connection:
        assert await rest_of_dead(connection, clock.now, 10) == 1
    assert (await one.sessions.get("t", "s")).state is SessionState.PARKED


async def test_a_deletion_reaches_every_engine_that_served_the_session(
    database: Database, backend: Backend, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    for process in (one, two, one, two):
        await process.turn()
    async with database.begin() as connection:
        assert await holders(connection, "t", "s") == {"one", "two"}
    await two.sessions.delete("t", "s")
    assert (one.engine.held, two.engine.held) == ({session_key("t", "s")}, set())
    assert await two.orders.carry_out() == 0
    assert await one.orders.carry_out() == 1
    assert await one.orders.carry_out() == 0
    assert one.engine.held == set()
    assert await backend.ask("SELECT count(*) FROM placements") == 0
    actions = [row.action for row in (await one.sessions.audit("t")).items]
    assert actions == ["kv_dropped", "session_deleted"]


async def test_a_new_session_of_the_name_does_not_save_the_kv_of_the_old_one(
    clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    await one.turn()
    await two.turn()
    await two.sessions.delete("t", "s")
    clock.now += timedelta(seconds=1)
    await two.turn()
    assert await one.orders.carry_out() == 1
    assert one.engine.held == set()
    assert two.engine.held == {session_key("t", "s")}


async def test_an_order_whose_process_never_comes_back_is_forgotten_with_it(
    database: Database, backend: Backend, clock: Clock, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    await one.turn()
    await two.turn()
    session = await one.sessions.get("t", "s")
    async with database.begin() as connection:
        await order_drop(connection, session, clock.now, "two")
    assert await backend.ask("SELECT count(*) FROM orders") == 1
    clock.now += FORGOTTEN_AFTER + timedelta(seconds=1)
    await see(database, "two", clock.now)
    async with database.begin() as connection:
        assert await forget_dead(connection, clock.now, 10) == 1
    assert await backend.ask("SELECT count(*) FROM orders") == 0
    assert await backend.ask("SELECT id FROM instances") == "two"


async def test_one_database_has_one_secret(database: Database) -> None:
    for _ in range(2):
        async with database.begin() as connection:
            await check_secret(connection, b"a" * 32)
    with pytest.raises(StateUnavailable, match="VALET_SECRET"):
        async with database.begin() as connection:
            await check_secret(connection, b"b" * 32)
