"""What a turn's end writes of its session's history."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.history.points import Head, NewPoint, PointRepository
from sessions.history.transcript import Added, Transcripts
from sessions.units import Write


@dataclass(slots=True)
class Ending:
    """What a turn's end writes of its history."""

    head: Head | None = None
    """None for a turn without a history."""
    writes: list[Write] = field(default_factory=list)
    is_stored: bool = False
    """Whether the writes were made: not for a session that is gone."""


def ending_of(
    tenant: str,
    session_id: str,
    head: Head,
    points: Sequence[NewPoint],
    transcripts: Transcripts,
    added: Added | None,
) -> Ending:
    """The ending after which the session rests at ``head``."""
    ending = Ending(head)

    async def write(connection: AsyncConnection) -> None:
        repo = PointRepository(connection)
        if points:
            await repo.put(tenant, session_id, head.turn, points)
        await repo.put_head(tenant, session_id, head)
        if added is not None:
            await transcripts.put(connection, tenant, session_id, added)
        ending.is_stored = True

    ending.writes.append(write)
    return ending
