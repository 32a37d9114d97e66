"""Which session is it that this history continues? Pure.

A session is known by its points: after every turn, the hash of all messages up to the answer
(``answered``), of all messages of the request (``asked``), and of the answer alone (``answer``).
Of the points that a request's history meets, the first rule that applies decides:

1. It ends, but for what is new, with a session's last answer: that session goes on.
2. Its last answer is a session's last answer, what is before it has changed: that session was
   rewritten (compacted, trimmed, edited), and goes on.
3. Otherwise the longest point decides. Where it is a session's last answer, that session goes on.
   Where it is older, or the session is answering just now, the history forks there.
4. Without a point it is a new session.

Histories that are equal cannot be told apart: of several sessions the most recent one is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sessions.history.chain import Chain
from sessions.types import PointKind


class Relation(StrEnum):
    """What a request is to the session that it was found to belong to."""

    CONTINUES = "continues"
    REWRITES = "rewrites"
    FORKS = "forks"


@dataclass(frozen=True, slots=True)
class Point:
    """A point that a history meets, and its session as it is now."""

    hash: bytes
    kind: PointKind
    session_id: str
    turn: int
    head_turn: int
    busy: bool
    """Whether a turn of the session runs."""
    last_active_at: datetime

    @property
    def can_go_on(self) -> bool:
        """Whether it is the end of a session that waits for its next turn."""
        return self.turn == self.head_turn and not self.busy and self.kind is not PointKind.ASKED


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request belongs."""

    relation: Relation
    session_id: str
    """Of a fork: the parent."""
    turn: int
    """The turn whose answer is the last that both have; 0 for none."""
    asked: int = 0
    """Of a fork: the later turn whose whole request both have; 0 when they part at an answer."""
    history: bytes | None = None
    """Of a session that goes on: the hash of its whole history, where the point tells it."""


def choose(chain: Chain, points: Sequence[Point]) -> Match | None:
    """The session that a request belongs to; None for a new one."""
    length = {hashed: count for count, hashed in enumerate(chain.hashes, 1)}

    def rank(point: Point) -> tuple[int, bool, bool, datetime, str]:
        on_answer = point.kind is PointKind.ANSWERED
        messages = length[point.hash]
        return messages, point.can_go_on, on_answer, point.last_active_at, point.session_id

    met = [p for p in points if p.kind is not PointKind.ANSWER and p.hash in length]
    ends = [p for p in met if p.can_go_on and length[p.hash] == chain.answered]
    if ends:
        return _goes_on(max(ends, key=rank), Relation.CONTINUES)
    alone = [p for p in points if p.kind is PointKind.ANSWER and p.can_go_on]
    if alone:
        newest = max(alone, key=lambda point: (point.last_active_at, point.session_id))
        return _goes_on(newest, Relation.REWRITES)
    if not met:
        return None
    best = max(met, key=rank)
    if best.can_go_on:
        return _goes_on(best, Relation.CONTINUES)
    if best.kind is PointKind.ANSWERED:
        return Match(Relation.FORKS, best.session_id, best.turn)
    before = [
        p.turn
        for p in met
        if p.session_id == best.session_id and p.turn < best.turn and p.kind is PointKind.ANSWERED
    ]
    return Match(Relation.FORKS, best.session_id, max(before, default=0), best.turn)


def _goes_on(point: Point, relation: Relation) -> Match:
    history = point.hash if point.kind is PointKind.ANSWERED else None
    return Match(relation, point.session_id, point.turn, history=history)
