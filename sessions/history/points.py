"""Rows of what sessions are known by: points, and the history at each session's head."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, delete, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.history.chain import HASH_BYTES
from sessions.history.recognition import Point
from sessions.inserting import upsert_into
from sessions.models import heads, points, sessions, turns
from sessions.types import PointKind

KEPT_TURNS: Final = 256
"""Turns of a session whose points are kept, the newest ones."""
HASHES_A_QUERY: Final = 64
POINTS_A_QUERY: Final = 32
SLOTS: Final = 16
"""Sessions that one hash is kept for."""


def _met() -> Select[Any]:
    alone = points.c.kind == PointKind.ANSWER
    # All hashes in one list: the index is searched for each, and nothing else is read.
    listed = points.c.hash.in_(bindparam("hashes", expanding=True))
    wanted = and_(listed, or_(not_(alone), points.c.hash == bindparam("answer")))
    first = (
        select(points)
        .where(points.c.tenant == bindparam("tenant"), wanted)
        .order_by(alone.desc(), points.c.messages.desc())
        .limit(POINTS_A_QUERY)
        .subquery()
    )
    told = (first.c.hash, first.c.kind, first.c.session_id, first.c.turn)
    now = (sessions.c.head_turn, sessions.c.running, sessions.c.last_active_at)
    owner = and_(sessions.c.tenant == first.c.tenant, sessions.c.id == first.c.session_id)
    return select(*told, *now).select_from(first.join(sessions, owner))


_MET: Final = _met()


@dataclass(frozen=True, slots=True)
class NewPoint:
    """A point as a turn's end writes it."""

    hash: bytes
    kind: PointKind
    messages: int


@dataclass(frozen=True, slots=True)
class Head:
    """The history at a session's head."""

    turn: int
    hashes: tuple[bytes, ...]
    """Of every prefix, the answer included."""
    tools: bytes


class PointRepository:
    """Rows of points and heads inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def met(self, tenant: str, hashes: Sequence[bytes], answer: bytes | None) -> list[Point]:
        """Points of at most ``HASHES_A_QUERY`` prefixes, those of the longest histories, and of an
        answer. Looks up every hash in an index; reads a bounded number of rows."""
        listed = [*hashes, answer] if answer is not None else list(hashes)
        given = {"tenant": tenant, "hashes": listed, "answer": answer or b""}
        found = await self._connection.execute(_MET, given)
        return [
            Point(
                hash=row.hash,
                kind=row.kind,
                session_id=row.session_id,
                turn=row.turn,
                head_turn=row.head_turn,
                busy=row.running > 0,
                last_active_at=row.last_active_at,
            )
            for row in found
        ]

    async def put(
        self, tenant: str, session_id: str, turn: int, written: Sequence[NewPoint]
    ) -> None:
        """Store a turn's points, and forget those of turns that are no longer kept."""
        slot = slot_of(session_id)
        # In one order everywhere, so that two transactions never wait for each other's rows.
        by_hash = {point.hash: point for point in sorted(written, key=lambda p: p.hash)}
        rows = [
            {
                "tenant": tenant,
                "hash": point.hash,
                "slot": slot,
                "session_id": session_id,
                "kind": point.kind,
                "turn": turn,
                "messages": point.messages,
            }
            for point in by_hash.values()
        ]
        await self._connection.execute(upsert_into(self._connection, points), rows)
        if turn > KEPT_TURNS:
            await self._connection.execute(
                delete(points).where(
                    points.c.tenant == tenant,
                    points.c.session_id == session_id,
                    points.c.turn <= turn - KEPT_TURNS,
                )
            )

    async def head(self, tenant: str, session_id: str) -> Head | None:
        """The history at the session's head; None when there is none, or it was not kept."""
        query = (
            select(heads.c.turn, heads.c.hashes, heads.c.tools)
            .join(
                sessions,
                and_(sessions.c.tenant == heads.c.tenant, sessions.c.id == heads.c.session_id),
            )
            .where(
                heads.c.tenant == tenant,
                heads.c.session_id == session_id,
                heads.c.turn == sessions.c.head_turn,
            )
        )
        row = (await self._connection.execute(query)).one_or_none()
        if row is None or not row.hashes:
            return None
        packed: bytes = row.hashes
        starts = range(0, len(packed), HASH_BYTES)
        return Head(row.turn, tuple(packed[s : s + HASH_BYTES] for s in starts), row.tools)

    async def put_head(self, tenant: str, session_id: str, head: Head) -> None:
        """Store the history at the session's head."""
        row = {
            "tenant": tenant,
            "session_id": session_id,
            "turn": head.turn,
            "hashes": b"".join(head.hashes),
            "tools": head.tools,
        }
        await self._connection.execute(upsert_into(self._connection, heads), row)

    async def answered(self, tenant: str, session_id: str, turn: int) -> set[bytes]:
        """The histories that end with an answer of the turn."""
        query = select(points.c.hash).where(
            points.c.tenant == tenant,
            points.c.session_id == session_id,
            points.c.turn == turn,
            points.c.kind == PointKind.ANSWERED,
        )
        return set((await self._connection.execute(query)).scalars())

    async def tokens(self, tenant: str, session_id: str, turn: int, *, asked: bool) -> int:
        """Of the conversation after a turn, or of the turn's request; 0 when it is not known."""
        query = select(turns.c.prompt_tokens, turns.c.output_tokens).where(
            turns.c.tenant == tenant, turns.c.session_id == session_id, turns.c.number == turn
        )
        row = (await self._connection.execute(query)).one_or_none()
        if row is None or row.prompt_tokens is None:
            return 0
        return int(row.prompt_tokens + (0 if asked else row.output_tokens))


async def rewind(connection: AsyncConnection, tenant: str, session_id: str, turn: int) -> None:
    """The session's head went back to ``turn``, and so does the history at its head.

    Points of later turns stay: a history that meets them is a fork. Where the turn is too long ago,
    or the history was rewritten since, the head's history is forgotten until the next turn.
    """
    repo = PointRepository(connection)
    own = and_(heads.c.tenant == tenant, heads.c.session_id == session_id)
    query = select(heads.c.hashes, heads.c.tools).where(own)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return
    found = await connection.execute(
        select(points.c.hash, points.c.messages).where(
            points.c.tenant == tenant,
            points.c.session_id == session_id,
            points.c.turn == turn,
            points.c.kind == PointKind.ANSWERED,
        )
    )
    packed: bytes = row.hashes
    for point in found:
        end = point.messages * HASH_BYTES
        if packed[end - HASH_BYTES : end] == point.hash:
            starts = range(0, end, HASH_BYTES)
            kept = tuple(packed[start : start + HASH_BYTES] for start in starts)
            await repo.put_head(tenant, session_id, Head(turn, kept, row.tools))
            return
    await connection.execute(delete(heads).where(own))


def slot_of(session_id: str) -> int:
    """The slot that a session has under every hash."""
    return hashlib.blake2b(session_id.encode(), digest_size=1).digest()[0] % SLOTS
