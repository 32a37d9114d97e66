"""Sessions and KV brought to agree when the server starts, before it serves."""

import logging
from dataclasses import dataclass

from cache_tiers.hints import SessionKv
from cache_tiers.types import SessionKey
from sessions.database import Database
from sessions.identity import parse_session_key
from sessions.lifecycle import rested
from sessions.ports import Clock, KvControl
from sessions.repository import SessionRepository
from sessions.types import AuditAction, Session, SessionState
from sessions.upkeep.instances import end_turns_of

_log = logging.getLogger(__name__)

_Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found and done, in counts."""

    aborted_turns: int
    """Turns that the last process left running."""
    parked: int
    """Sessions whose KV turned out to rest on SSD only, and which became parked."""
    idle: int
    """Interrupted sessions of which no KV rests there, and which became idle."""
    dropped: int
    """Sessions of which only KV was left; it was dropped."""
    failed_drops: int
    """Those whose KV could not be dropped; the next start tries again."""


async def reconcile(database: Database, kv: KvControl, clock: Clock, instance: str) -> Reconciled:
    """See ``SessionService.reconcile``."""
    held: dict[_Name, SessionKv] = {}
    unknown: list[SessionKey] = []
    for session_kv in await kv.held_sessions():
        try:
            held[parse_session_key(session_kv.session)] = session_kv
        except ValueError:
            unknown.append(session_kv.session)
    # Sessions of the time before there were instances are this one's too.
    mine = {instance, ""}
    async with database.transaction() as repo:
        aborted = await end_turns_of(repo.connection, mine, clock())
        stopped = set(aborted)
        known = {_name(session): session for session in await repo.find_all([*held, *stopped])}
        for session in await repo.in_states({SessionState.RESUMING}, mine):
            known[_name(session)] = session
            stopped.add(_name(session))
        settled = [
            await _settle(repo, session, held)
            for session in known.values()
            if session.instance in mine
            and session.state in (SessionState.IDLE, SessionState.RESUMING)
        ]
    unknown += [kv.session for name, kv in held.items() if name not in known]
    failed_drops = await _drop(database, kv, clock, unknown)
    report = Reconciled(
        aborted_turns=len(aborted),
        parked=sum(session.state is SessionState.PARKED for session in settled),
        idle=sum(s.state is SessionState.IDLE and _name(s) in stopped for s in settled),
        dropped=len(unknown) - failed_drops,
        failed_drops=failed_drops,
    )
    _log.info("sessions and KV agree: %s", report)
    return report


def _name(session: Session) -> _Name:
    return session.tenant, session.id


async def _settle(
    repo: SessionRepository, session: Session, held: dict[_Name, SessionKv]
) -> Session:
    after = rested(session, held.get(_name(session)))
    await repo.save(after)
    return after


async def _drop(database: Database, kv: KvControl, clock: Clock, keys: list[SessionKey]) -> int:
    """How many of ``keys`` could not be dropped. Those that could have their audit row."""
    failed = 0
    for key in keys:
        try:
            dropped = await kv.drop(key)
        except Exception:  # noqa: BLE001 - logged, below, and whatever the engine raises
            # Unwanted KV costs room until the next start; it is no reason not to start.
            failed += 1
            if failed == 1:
                _log.exception("KV of a session that the database does not know stays for now")
            continue
        # One by one, so that a database that fails ends the dropping with it.
        async with database.transaction() as repo:
            await repo.add_audit(AuditAction.KV_DROPPED, *_owner(key), dropped, clock())
    return failed


def _owner(key: SessionKey) -> _Name:
    try:
        return parse_session_key(key)
    except ValueError:
        return "", key
