"""Where a fork parts from its parent, as the database knows it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.history.points import PointRepository
from sessions.history.recognition import Match
from sessions.repository import SessionRepository


async def forked_from(
    tenant: str, session_id: str, connection: AsyncConnection
) -> tuple[str, int, set[bytes]] | None:
    """The session and turn that a session without a turn of its own was forked from, and its
    histories then."""
    session = await SessionRepository(connection).find(tenant, session_id)
    if session is None or session.turns or session.parent_id is None or not session.parent_turn:
        return None
    known = await PointRepository(connection).answered(
        tenant, session.parent_id, session.parent_turn
    )
    return session.parent_id, session.parent_turn, known


async def parent_of(
    tenant: str, match: Match, connection: AsyncConnection
) -> tuple[int, int, set[bytes]]:
    """Tokens of the conversation that a fork has in common with its parent, and of what it can
    share; the parent's histories there."""
    repo = PointRepository(connection)
    tokens = await repo.tokens(tenant, match.session_id, match.turn, asked=False)
    known = await repo.answered(tenant, match.session_id, match.turn)
    if not match.asked:
        return tokens, tokens, known
    shared = await repo.tokens(tenant, match.session_id, match.asked, asked=True)
    return tokens, shared, known
