"""Where a request belongs, and what was said there before."""

from dataclasses import dataclass

from sessions.history.chain import Chain
from sessions.history.changes import Change, change
from sessions.history.points import Head
from sessions.history.recognition import Relation
from sessions.history.transcript import Kept
from sessions.types import Lineage


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request belongs, and what was said there before."""

    session_id: str
    """Of a session that may not exist yet."""
    chain: Chain | None = None
    """Of the request; None when it has no messages."""
    lineage: Lineage | None = None
    """Of a fork."""
    shared_tokens: int = 0
    """Of a fork: how much of the parent's conversation it begins with."""
    relation: Relation | None = None
    """None for a new session and for one that the client named."""
    head: Head | None = None
    """The session's history before this request, where it is known."""
    kept: Kept | None = None
    """The conversation at the head, in tokens; of a fork, the parent's where they part."""

    @property
    def change(self) -> Change | None:
        """What the request changed of the session's history."""
        if self.head is None or self.chain is None:
            return None
        return change(self.head, self.chain)

    @property
    def exact(self) -> bool:
        """Whether the request only adds to the history that ``kept`` is the conversation of, with
        the tools that it was rendered with."""
        if self.kept is None or self.chain is None:
            return False
        return self.kept.tools == self.chain.tools and self.kept.history in self.chain.hashes
