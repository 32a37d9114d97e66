"""Sessions at rest: the history at the head of each, as the database is known to have it."""

from typing import Final

from sessions.history.points import Head
from sessions.history.recent import Name, Recent

HEADS_BYTES: Final = 32 * 1024 * 1024
"""Of histories that are kept in memory."""
_MESSAGE_BYTES: Final = 64
"""One of a history's hashes, as an object."""


class Resting:
    """Heads by session and by their last hash, those that were used last. Not for threads."""

    def __init__(self, room: int = HEADS_BYTES) -> None:
        """``room`` is in bytes."""
        self._heads: Recent[Head] = Recent(room, self._gone)
        self._ends: dict[tuple[str, bytes], str] = {}

    def put(self, name: Name, head: Head) -> None:
        """A session rests at ``head``."""
        tenant, session_id = name
        self.drop(name)
        self._ends[tenant, head.hashes[-1]] = session_id
        self._heads.put(name, head, _MESSAGE_BYTES * (len(head.hashes) + 4))

    def head(self, name: Name) -> Head | None:
        """Where a session rests, if that is known."""
        return self._heads.get(name)

    def ending_with(self, tenant: str, history: bytes) -> str | None:
        """The session whose whole history has this hash; of several, the one that came last."""
        return self._ends.get((tenant, history))

    def drop(self, name: Name) -> None:
        """It is not known any more where a session rests."""
        self._heads.drop(name)

    def clear(self) -> None:
        """It is known of no session any more where it rests."""
        self._heads.clear()

    def _gone(self, name: Name, head: Head) -> None:
        tenant, session_id = name
        end = tenant, head.hashes[-1]
        # Another session of the same history may have come to rest since.
        if self._ends.get(end) == session_id:
            del self._ends[end]
