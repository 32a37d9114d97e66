"""Which chores this server's reaper has."""

from app.metrics import UPKEEP_FAILURES
from app.settings import Settings
from sessions.coordination.port import Coordinator
from sessions.database import Database
from sessions.leases.service import LeaseService, end_due_pins
from sessions.ports import Clock, KvControl
from sessions.responses.conversation_repository import ConversationRepository
from sessions.responses.repository import ResponseRepository
from sessions.service import SessionService
from sessions.tenancy.byte_quotas import keep_byte_quotas
from sessions.tenancy.directory import TenantDirectory
from sessions.upkeep.events import forget_events
from sessions.upkeep.expiry import Expiry
from sessions.upkeep.heartbeat import Heartbeat
from sessions.upkeep.instances import end_turns_of_dead, forget_dead, rest_of_dead
from sessions.upkeep.orders import Orders
from sessions.upkeep.parking import IdleParking
from sessions.upkeep.reaper import OwnChore, Reaper, SharedChore


def make_reaper(
    settings: Settings,
    database: Database,
    coordinator: Coordinator,
    kv: KvControl,
    sessions: SessionService,
    leases: LeaseService,
    directory: TenantDirectory,
    heartbeat: Heartbeat,
    clock: Clock,
    instance: str,
) -> Reaper:
    """One that does not run yet. ``heartbeat`` is this process's."""

    async def byte_quotas() -> None:
        if directory.limits_bytes:
            await keep_byte_quotas(kv, sessions, directory.quotas)

    own: dict[str, OwnChore] = {
        "orders": Orders(sessions.units, kv, clock, instance).carry_out,
        "broken pins": leases.tell_broken,
        "pin shares": leases.keep_shares,
        "byte quotas": byte_quotas,
    }
    if settings.park_after:
        own["parking"] = IdleParking(sessions, clock, instance, settings.park_after)
    expiry = Expiry(settings.terms)
    shared: dict[str, SharedChore] = {
        "turns of dead processes ended": heartbeat.judging(end_turns_of_dead),
        "prefetches of dead processes ended": heartbeat.judging(rest_of_dead),
        "sessions expired": expiry.expire,
        "sessions removed": expiry.remove,
        "pins ended": end_due_pins,
        "responses purged": lambda c, now, most: ResponseRepository(c).purge(now, most),
        "conversations purged": lambda c, now, most: ConversationRepository(c).purge(now, most),
        "events forgotten": forget_events,
        "processes forgotten": heartbeat.judging(forget_dead),
    }
    return Reaper(
        database=database,
        coordinator=coordinator,
        clock=clock,
        instance=instance,
        own=own,
        shared=shared,
        on_fault=lambda chore: UPKEEP_FAILURES.labels(chore).inc(),
    )


def make_heartbeat(database: Database, clock: Clock, instance: str) -> Heartbeat:
    """One that does not beat yet."""
    return Heartbeat(
        database=database,
        clock=clock,
        instance=instance,
        on_fault=UPKEEP_FAILURES.labels("heartbeat").inc,
    )
