"""Sessions and KV brought to agree when the server starts, before it serves."""

import logging
from dataclasses import dataclass

from cache_tiers.hints import SessionKv
from cache_tiers.types import SessionKey
from sessions.database import Database
from sessions.identity import parse_session_key
from sessions.lifecycle import interrupted, rested
from sessions.ports import Clock, KvControl
from sessions.repository import SessionRepository
from sessions.types import Session, SessionState

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


async def reconcile(database: Database, kv: KvControl, clock: Clock) -> Reconciled:
    """See ``SessionService.reconcile``."""
    held: dict[_Name, SessionKv] = {}
    unknown: list[SessionKey] = []
    for session_kv in await kv.held_sessions():
        try:
            held[parse_session_key(session_kv.session)] = session_kv
        except ValueError:
            unknown.append(session_kv.session)
    async with database.transaction() as repo:
        stopped = await repo.in_states({SessionState.ACTIVE, SessionState.RESUMING})
        for session in stopped:
            await repo.abort_turns(session.tenant, session.id, clock())
        known = {_name(session): session for session in await repo.find_all(list(held))}
        unsettled = [interrupted(session) for session in stopped]
        unsettled += [s for s in known.values() if s.state is SessionState.IDLE]
        settled = [await _settle(repo, session, held) for session in unsettled]
    unknown += [kv.session for name, kv in held.items() if name not in known]
    failed_drops = await _drop(kv, unknown)
    report = Reconciled(
        aborted_turns=sum(session.running for session in stopped),
        parked=sum(session.state is SessionState.PARKED for session in settled),
        idle=sum(session.state is SessionState.IDLE for session in settled[: len(stopped)]),
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


async def _drop(kv: KvControl, keys: list[SessionKey]) -> int:
    """How many of ``keys`` could not be dropped."""
    failed = 0
    for key in keys:
        try:
            await kv.drop(key)
        except Exception:  # noqa: BLE001 - logged, below, and whatever the engine raises
            # Unwanted KV costs room until the next start; it is no reason not to start.
            failed += 1
            if failed == 1:
                _log.exception("KV of a session that the database does not know stays for now")
    return failed
