"""The upkeep's chores: what each does and tells, who may do it, and what a fault costs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.types import ChunkKey, Tier
from engine.fake import FakeEngine
from sessions.coordination.memory import MemoryCoordinator
from sessions.coordination.port import CoordinationLost, Lease
from sessions.database import Database, open_database
from sessions.identity import session_key
from sessions.leases.service import LeaseService, end_due_pins
from sessions.models import orders, sessions
from sessions.repository import SessionRepository
from sessions.service import SessionService
from sessions.types import AuditAction, SessionNotFound, SessionState, Terms
from sessions.upkeep import reaper as reapers
from sessions.upkeep.events import EventRepository, forget_events
from sessions.upkeep.expiry import Expiry
from sessions.upkeep.fences import StaleLease, accept, newest_token
from sessions.upkeep.orders import Orders
from sessions.upkeep.parking import IdleParking
from sessions.upkeep.reaper import Reaper

TERMS = Terms(ttl_s=3600, retention_s=86_400)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)


class House:
    """One process: its engine, its services, its reaper."""

    def __init__(self, database: Database, clock: Clock, coordinator: Any, name: str) -> None:
        self.engine = FakeEngine()
        self.service = SessionService(database, self.engine, clock, instance=name, terms=TERMS)
        self.leases = LeaseService(
            self.service.units,
            self.engine,
            clock,
            budgets=dict.fromkeys(Tier, 2**20),
            instance=name,
        )
        self.orders = Orders(self.service.units, self.engine, clock, name)
        expiry = Expiry(TERMS)
        self.faults: list[str] = []
        self.reaper = Reaper(
            database=database,
            coordinator=coordinator,
            clock=clock,
            instance=name,
            own={"orders": self.orders.carry_out, "broken pins": self.leases.tell_broken},
            shared={
                "expired": expiry.expire,
                "removed": expiry.remove,
                "pins": end_due_pins,
                "events": forget_events,
            },
            on_fault=self.faults.append,
        )

    async def talk(self, session_id: str, tenant: str = "t") -> None:
        begun = await self.service.begin_turn(tenant, session_id, "m")
        receipt = {"turn": begun.number}
        await self.service.end_turn(begun, receipt=receipt, prompt_tokens=9, output_tokens=1)
        keys = [ChunkKey(f"{tenant}/{session_id}/{number}".encode()) for number in range(2)]
        self.engine.disk.put(session_key(tenant, session_id), keys)

    async def told(self, session_id: str, tenant: str = "t") -> list[str]:
        events = (await self.service.events(tenant, session_id, limit=100)).items
        return [str(event.kind) for event in reversed(events)]

    async def state(self, session_id: str) -> SessionState:
        return (await self.service.get("t", session_id)).state

    def holds(self, session_id: str) -> bool:
        return session_key("t", session_id) in self.engine.disk.manifests


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(f"sqlite:///{tmp_path / 'state.db'}")
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    return House(database, clock, MemoryCoordinator(), "one")


# --- time to live --------------------------------------------------------------------------------


async def test_a_session_expires_and_is_forgotten_later(house: House, clock: Clock) -> None:
    await house.talk("s")
    clock.pass_by(seconds=3599)
    assert (await house.reaper.round())["expired"] == 0
    clock.pass_by(seconds=1)
    assert (await house.reaper.round())["expired"] == 1
    session = await house.service.get("t", "s")
    assert session.state is SessionState.EXPIRED
    assert session.expires_at == clock.now + timedelta(days=1)
    # The order to the engine is carried out by the next round of its process.
    assert house.holds("s")
    await house.reaper.round()
    assert not house.holds("s")
    (row,) = (await house.service.audit("t")).items
    assert (row.action, row.key_destroyed, row.chunks) == (AuditAction.SESSION_EXPIRED, True, 2)
    clock.pass_by(days=1)
    assert (await house.reaper.round())["removed"] == 1
    with pytest.raises(SessionNotFound):
        await house.service.get("t", "s")
    assert await house.told("s") == ["created", "expired", "deleted"]
    newest = (await house.service.audit("t")).items[0]
    assert newest.action is AuditAction.SESSION_REMOVED


async def test_a_turn_moves_the_end_and_revives_the_expired(house: House, clock: Clock) -> None:
    await house.talk("s")
    clock.pass_by(minutes=59)
    await house.talk("s")
    clock.pass_by(minutes=59)
    assert (await house.reaper.round())["expired"] == 0
    clock.pass_by(minutes=1)
    await house.reaper.round()
    assert await house.state("s") is SessionState.EXPIRED
    await house.talk("s")
    assert await house.state("s") is SessionState.IDLE
    # The order from before finds a session in use, and leaves it alone.
    await house.reaper.round()
    assert house.holds("s")
    assert await house.told("s") == ["created", "expired", "resumed"]


async def test_a_running_turn_keeps_its_session(house: House, clock: Clock) -> None:
    begun = await house.service.begin_turn("t", "s", "m")
    clock.pass_by(days=2)
    assert (await house.reaper.round())["expired"] == 0
    await house.service.end_turn(begun)
    assert (await house.reaper.round())["expired"] == 0


async def test_a_session_has_its_own_time(house: House, clock: Clock) -> None:
    for name in ("short", "long"):
        await house.talk(name)
    await house.service.update("t", "short", {"ttl_s": 60})
    clock.pass_by(minutes=1)
    await house.reaper.round()
    assert await house.state("short") is SessionState.EXPIRED
    assert await house.state("long") is SessionState.IDLE


async def test_many_expire_in_bounded_batches(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reapers, "BATCH", 2)
    monkeypatch.setattr(reapers, "_BATCHES", 2)
    for number in range(5):
        await house.talk(f"s{number}")
    clock.pass_by(hours=1)
    assert (await house.reaper.round())["expired"] == 4
    assert (await house.reaper.round())["expired"] == 1


# --- pins, parking, old events -------------------------------------------------------------------


async def test_a_pin_ends_with_an_event(house: House, clock: Clock) -> None:
    await house.talk("s")
    await house.leases.pin("t", "s", Tier.SSD, 60)
    clock.pass_by(seconds=59)
    assert (await house.reaper.round())["pins"] == 0
    clock.pass_by(seconds=1)
    assert (await house.reaper.round())["pins"] == 1
    assert (await house.reaper.round())["pins"] == 0
    assert await house.told("s") == ["created", "pinned", "pin_expired"]


async def test_a_pin_that_outgrows_the_share_ends(house: House, clock: Clock) -> None:
    await house.talk("s")
    await house.leases.pin("t", "s", Tier.SSD, 60)
    assert await house.leases.keep_shares() == 0
    small = LeaseService(
        house.service.units, house.engine, clock, budgets={Tier.SSD: 4096}, instance="one"
    )
    assert await small.keep_shares() == 1
    assert await small.keep_shares() == 0
    assert await house.told("s") == ["created", "pinned", "pin_broken"]


async def test_without_pins_the_engine_is_left_alone(house: House) -> None:
    await house.talk("s")
    house.engine.die()
    assert await house.leases.keep_shares() == 0


async def test_idle_sessions_are_parked_the_longest_idle_first(house: House, clock: Clock) -> None:
    parking = IdleParking(house.service, clock, "one", timedelta(minutes=10))
    await house.talk("old")
    clock.pass_by(minutes=5)
    await house.talk("new")
    clock.pass_by(minutes=6)
    assert await parking() == 1
    assert await house.state("old") is SessionState.PARKED
    assert await house.state("new") is SessionState.IDLE
    events = (await house.service.events("t", "old")).items
    assert events[0].details == {"by": "reaper"}


async def test_old_events_go(house: House, clock: Clock) -> None:
    await house.talk("s")
    await house.service.delete("t", "s")
    clock.pass_by(days=91)
    assert (await house.reaper.round())["events"] == 2
    with pytest.raises(SessionNotFound):
        await house.told("s")


# --- several processes ---------------------------------------------------------------------------


async def test_one_of_two_does_the_shared_chores(database: Database, clock: Clock) -> None:
    coordinator = MemoryCoordinator()
    one, two = (House(database, clock, coordinator, name) for name in ("one", "two"))
    await one.talk("s")
    clock.pass_by(hours=1)
    assert (await two.reaper.round())["expired"] == 1
    assert await one.reaper.round() == {}
    # Each carries out its own orders: the KV is with the one that served the session.
    assert not one.holds("s")
    assert await one.told("s") == ["created", "expired"]


class SleepyCoordinator(MemoryCoordinator):
    """Its process is asleep between getting a lease and using it."""

    meanwhile: Callable[[], Awaitable[object]]

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        lease = await super().acquire(name, holder, ttl_s, floor)
        await self.meanwhile()
        return lease


async def test_a_stale_token_writes_nothing(database: Database, clock: Clock) -> None:
    """Two processes that each have a coordinator of their own, as when Redis is lost."""
    sleepy = SleepyCoordinator()
    one, two = (
        House(database, clock, sleepy, "one"),
        House(database, clock, MemoryCoordinator(), "two"),
    )
    await one.talk("before")
    clock.pass_by(hours=1)

    async def meanwhile() -> None:
        assert (await two.reaper.round())["expired"] == 1
        await one.talk("after")
        clock.pass_by(hours=1)

    sleepy.meanwhile = meanwhile
    assert await one.reaper.round() == {}
    assert await one.state("after") is SessionState.IDLE
    assert await one.told("before") == ["created", "expired"]
    assert (await two.reaper.round())["expired"] == 1
    assert one.faults == two.faults == []


async def test_a_fence_lets_only_the_newest_pass(database: Database) -> None:
    async with database.begin() as connection:
        assert await newest_token(connection, "x") == 0
        for token in (3, 3, 7):
            await accept(connection, Lease("x", "h", token))
        assert await newest_token(connection, "x") == 7
        await accept(connection, Lease("y", "h", 1))
        with pytest.raises(StaleLease):
            await accept(connection, Lease("x", "h", 6))
        with pytest.raises(StaleLease):
            await accept(connection, Lease("x", "another", 7))


async def test_deleting_elsewhere_reaches_every_engine(database: Database, clock: Clock) -> None:
    coordinator = MemoryCoordinator()
    one, two = (House(database, clock, coordinator, name) for name in ("one", "two"))
    await one.talk("s")
    await two.talk("s")
    await two.service.delete("t", "s")
    assert one.holds("s")
    assert await one.orders.carry_out() == 1
    assert not one.holds("s")
    assert await one.orders.carry_out() == await two.orders.carry_out() == 0
    async with database.begin() as connection:
        assert not (await connection.execute(select(orders))).all()


# --- faults --------------------------------------------------------------------------------------


class LostCoordinator(MemoryCoordinator):
    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        raise CoordinationLost


async def test_a_lost_coordinator_stops_the_shared_chores_alone(
    database: Database, clock: Clock
) -> None:
    house = House(database, clock, LostCoordinator(), "one")
    assert await house.reaper.round() == {}
    assert house.faults == ["lease"]


async def test_a_chore_that_fails_is_logged_once_and_holds_up_no_other(
    house: House, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await house.talk("s")
    clock.pass_by(hours=1)
    house.engine.die()
    for _ in range(2):
        await house.reaper.round()
    assert await house.state("s") is SessionState.EXPIRED
    assert house.faults.count("broken pins") == 2
    assert caplog.text.count("upkeep: broken pins failed") == 1


async def test_half_a_batch_is_no_batch(house: House, database: Database, clock: Clock) -> None:
    """What a chore did before it failed is undone with it, its events too."""

    async def fails(connection: AsyncConnection, now: datetime, limit: int) -> int:
        await Expiry(TERMS).expire(connection, now, limit)
        raise RuntimeError

    await house.talk("s")
    clock.pass_by(hours=1)
    house.reaper.shared = {"fails": fails}
    assert await house.reaper.round() == {"fails": 0}
    assert house.faults == ["fails"]
    assert await house.state("s") is SessionState.IDLE
    assert await house.told("s") == ["created"]


async def test_it_stops_between_two_rounds(house: House) -> None:
    house.reaper.stop()
    await house.reaper.run()


async def test_events_are_written_with_what_happened_or_not_at_all(
    house: House, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.talk("s")

    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(EventRepository, "add", fails)
    for change in (
        house.service.park("t", "s"),
        house.service.delete("t", "s"),
        house.service.update("t", "s", {"ttl_s": 60}),
        house.service.begin_turn("t", "new", "m"),
    ):
        with pytest.raises(RuntimeError):
            await change
    async with database.begin() as connection:
        rows = (await connection.execute(select(sessions.c.id, sessions.c.state))).all()
        assert [tuple(row) for row in rows] == [("s", SessionState.IDLE)]
        found = await SessionRepository(connection).find("t", "s")
        assert found is not None
        assert found.ttl_s is None
