"""Where a history was changed that a session's next request sends."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.history.chain import Chain, common
from sessions.history.points import Head
from sessions.types import BegunTurn
from sessions.units import Write
from sessions.upkeep.events import EventKind, EventRepository


@dataclass(frozen=True, slots=True)
class Change:
    """The first difference between what was said and what is said to have been said."""

    message: int | None
    """The first message that is another one, from 0, the system prompt included; None when all
    messages are the same and the tools are not."""
    cut: bool = False
    """Nothing is another message: the history ends in front of this one."""

    @property
    def what(self) -> str:
        """In words, for a person."""
        if self.message is None:
            return "the tools changed"
        return (
            f"the history ends before message {self.message}"
            if self.cut
            else (f"message {self.message} changed")
        )


def change(head: Head, chain: Chain) -> Change | None:
    """What changed since the session's head; None when the request only adds to it."""
    same = common(head.hashes, chain.hashes)
    if same < len(head.hashes):
        return Change(same, cut=same == len(chain.hashes))
    return Change(None) if head.tools != chain.tools else None


def rewritten(begun: BegunTurn, prefix_change: dict[str, Any]) -> Write:
    """The event of a turn whose receipt says what changed."""
    details = {name: value for name, value in prefix_change.items() if name != "text"}

    async def write(connection: AsyncConnection) -> None:
        await EventRepository(connection).add(
            begun.tenant,
            begun.session_id,
            EventKind.REWRITTEN,
            begun.started_at,
            turn=begun.number,
            **details,
        )

    return write
