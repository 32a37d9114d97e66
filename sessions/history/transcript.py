"""The token ids of conversations, turn by turn: in the database sealed, the newest in memory.

A row holds what a turn added to the conversation that it continues; every now and then the whole,
so that few rows make a conversation, and old ones may go.
"""

import logging
from array import array
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import msgspec
import zstandard
from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from xxhash import xxh3_128_digest

from sessions.history.continuation import Span, Transcript, common_tokens
from sessions.history.points import Head
from sessions.history.recent import Recent
from sessions.inserting import insert_new
from sessions.models import transcripts
from sessions.sealing import SealBroken, Sealer
from sessions.units import Units

logger = logging.getLogger(__name__)

KEPT_TURNS: Final = 64
"""Turns of a session whose transcripts are kept, the newest ones."""
WHOLE_EVERY: Final = 32
"""Rows that continue one another, at most."""
MEMORY_BYTES: Final = 64 * 1024 * 1024
MAX_TOKENS: Final = 4 * 1024 * 1024
"""Of one conversation, which no model's context reaches."""

_KIND = "transcript"


@dataclass(frozen=True, slots=True)
class Kept:
    """The conversation after a turn."""

    turn: int
    transcript: Transcript
    depth: int
    """Rows that it is made of."""
    history: bytes
    """The hash of its messages, the answer included."""
    tools: bytes
    """The hash of the tools that it was rendered with."""

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return 4 * len(self.transcript.tokens) + 64 * len(self.transcript.spans) + 512


class _Row(msgspec.Struct, array_like=True, frozen=True):
    depth: int
    tokens: bytes
    spans: list[int]
    history: bytes
    tools: bytes
    check: bytes
    """Of the whole conversation: a row is of no use behind others than those it was made behind."""


@dataclass(frozen=True, slots=True)
class Added:
    """What a turn adds to the conversation that it continues."""

    kept: Kept
    """The conversation after the turn."""
    base: int
    """The turn of the conversation that is continued; 0 for none."""
    start: int
    """How many of its tokens are continued."""
    spans: tuple[Span, ...]
    """Of what the model wrote behind ``start``."""


class Transcripts:
    """Seals, opens and remembers transcripts. Used on one event loop, but for ``put``."""

    def __init__(self, sealer: Sealer, memory_bytes: int = MEMORY_BYTES) -> None:
        self._sealer = sealer
        self._recent: Recent[Kept] = Recent(memory_bytes)

    def remember(self, tenant: str, session_id: str, kept: Kept | None) -> None:
        """Have the newest conversation of a session at hand; others may have to go for it. None
        when it is not known."""
        if kept is None:
            self._recent.drop((tenant, session_id))
        else:
            self._recent.put((tenant, session_id), kept, kept.bytes)

    def at_hand(
        self, tenant: str, session_id: str, turn: int, histories: Container[bytes]
    ) -> Kept | None:
        """The conversation after that turn, if it is in memory; see ``load``."""
        kept = self._recent.get((tenant, session_id))
        # The session of this name may be another one by now, made anew by another process.
        known = kept is not None and kept.turn == turn and kept.history in histories
        return kept if known else None

    async def load(
        self,
        units: Units,
        tenant: str,
        session_id: str,
        turn: int,
        histories: Container[bytes],
    ) -> Kept | None:
        """The conversation after that turn; None when it was not kept, cannot be opened, or has
        none of the ``histories`` that are asked for. Raises StateUnavailable."""
        if (kept := self.at_hand(tenant, session_id, turn, histories)) is not None:
            return kept
        found = await units.read(partial(_rows, tenant, session_id, turn))
        rows = {row.turn: row for row in found}
        parts: list[tuple[int, _Row]] = []
        wanted = turn
        while True:
            row = rows.pop(wanted, None)
            opened = None if row is None else self._open(tenant, session_id, wanted, row.sealed)
            if row is None or opened is None or len(parts) > WHOLE_EVERY:
                return None
            parts.append((row.start, opened))
            wanted = row.base
            if not wanted:
                break
        tokens, spans = array("I"), list[Span]()
        for start, part in reversed(parts):
            del tokens[start:]
            tokens.frombytes(part.tokens)
            spans = [span for span in spans if span[1] <= start]
            spans += zip(part.spans[::2], part.spans[1::2], strict=True)
        last = parts[0][1]
        if last.history not in histories or last.check != _check(tokens):
            return None
        transcript = Transcript(tokens, tuple(spans))
        return Kept(turn, transcript, len(parts), last.history, last.tools)

    async def put(
        self, connection: AsyncConnection, tenant: str, session_id: str, added: Added
    ) -> None:
        """Store a turn's transcript, and forget those of turns that are no longer kept. Safe from
        any thread."""
        kept = added.kept
        tokens = kept.transcript.tokens
        flat = list(chain.from_iterable(added.spans))
        behind = tokens[added.start :].tobytes()
        row = _Row(kept.depth, behind, flat, kept.history, kept.tools, _check(tokens))
        content = zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(row))
        new = {
            "tenant": tenant,
            "session_id": session_id,
            "turn": kept.turn,
            "base": added.base,
            "start": added.start,
            "sealed": self._sealer.seal(tenant, _KIND, _name(session_id, kept.turn), content),
        }
        await connection.execute(insert_new(connection, transcripts), new)
        if kept.turn > KEPT_TURNS + WHOLE_EVERY:
            await connection.execute(
                delete(transcripts).where(
                    transcripts.c.tenant == tenant,
                    transcripts.c.session_id == session_id,
                    transcripts.c.turn <= kept.turn - KEPT_TURNS - WHOLE_EVERY,
                )
            )

    def _open(self, tenant: str, session_id: str, turn: int, sealed: bytes) -> _Row | None:
        try:
            content = self._sealer.open(tenant, _KIND, _name(session_id, turn), sealed)
            whole = zstandard.ZstdDecompressor().decompress(content, max_output_size=8 * MAX_TOKENS)
            return msgspec.msgpack.decode(whole, type=_Row)
        except (SealBroken, zstandard.ZstdError, msgspec.MsgspecError):
            logger.warning("A transcript of the database cannot be opened; it is not used.")
            return None


async def _rows(
    tenant: str, session_id: str, turn: int, connection: AsyncConnection
) -> Sequence[Row[Any]]:
    query = (
        select(transcripts)
        .where(
            transcripts.c.tenant == tenant,
            transcripts.c.session_id == session_id,
            transcripts.c.turn <= turn,
        )
        .order_by(transcripts.c.turn.desc())
        .limit(KEPT_TURNS)
    )
    return (await connection.execute(query)).all()


def add(head: Head, before: Kept | None, prompt: "array[int]", answer: "array[int]") -> Added:
    """What a turn of ``prompt`` and ``answer`` adds. ``head`` is the history after it, ``before``
    the session's own conversation that it continued."""
    tokens = prompt + answer
    start = common_tokens(before.transcript.tokens, tokens) if before is not None else 0
    spans = [s for s in before.transcript.spans if s[1] <= start] if before is not None else []
    written = (len(prompt), len(tokens))
    base, depth = 0, 1
    new_spans: tuple[Span, ...] = (written,)
    if before is not None and start and before.depth < WHOLE_EVERY:
        base, depth = before.turn, before.depth + 1
    else:
        start, new_spans = 0, (*spans, written)
    transcript = Transcript(tokens, (*spans, written))
    return Added(
        Kept(head.turn, transcript, depth, head.hashes[-1], head.tools), base, start, new_spans
    )


def _check(tokens: "array[int]") -> bytes:
    # Against a mix-up; against others there is the seal.
    return xxh3_128_digest(tokens.tobytes())


def _name(session_id: str, turn: int) -> str:
    return f"{session_id}/{turn}"
