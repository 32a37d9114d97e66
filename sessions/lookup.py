"""A session as the database has it, or the error that says why not."""

from sessions.identity import is_session_id
from sessions.repository import SessionRepository
from sessions.types import Session, SessionBusy, SessionNotFound


async def existing(
    repo: SessionRepository, tenant: str, session_id: str, *, lock: bool = False
) -> Session:
    """The session, locked until the transaction ends if asked. Raises SessionNotFound."""
    # What cannot be an id may not even be text that a database takes.
    session = await repo.find(tenant, session_id, lock=lock) if is_session_id(session_id) else None
    if session is None:
        raise SessionNotFound("No such session.")
    return session


async def unchanged(repo: SessionRepository, before: Session) -> Session:
    """The session, locked, when no turn began or ended since ``before`` was read. Raises
    SessionNotFound, SessionBusy."""
    now = await existing(repo, before.tenant, before.id, lock=True)
    same = (now.created_at, now.turns, now.running)
    if same != (before.created_at, before.turns, before.running):
        raise SessionBusy("A turn of the session began meanwhile.")
    return now
