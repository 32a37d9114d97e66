"""Prefetch all the way to the device: a load that no request asked for yet.

Works as a request's load does: device blocks are taken from the pool, a stream fills them, and
blocks that were filled join the engine's prefix cache, where the next request finds them. They are
idle from then on, so pressure may evict them as any other. Scheduler thread only.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from cache_tiers.hints import Prefetched, Reply
from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.loads import LOAD_PATIENCE_S
from engine.core_plugin.operations import PATIENCE_S

KEEP_SHARE = 0.25
"""Of the idle blocks, what a fill leaves to requests."""
OnFailed = Callable[[MissReason], None]
"""Told why a fill ended before its end, if it did."""


class DeviceFiller(Protocol):
    """What a fill needs of the scheduler side."""

    tokens_per_chunk: int

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None: ...

    def on_device(self, session: SessionKey) -> int:
        """Leading chunks of the session that are on the device already."""
        ...

    def take_blocks(self, most: int, keep_share: float) -> list[int]:
        """Up to ``most`` device blocks of which nobody makes use, the least worth first; leaves
        ``keep_share`` of the idle ones to requests."""
        ...

    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None:
        """Carry ``stream`` out, which writes to ``blocks``, beginning with the next step."""
        ...

    def adopt(
        self,
        session: SessionKey,
        filled: Sequence[tuple[ChunkKey, int]],
        empty: Sequence[int],
    ) -> None:
        """Give blocks back to the pool: filled ones under their chunk's name, others nameless.
        Where the session has a lease on the device, its chunks are held from now on."""
        ...


class DeviceFill:
    """An operation (see ``operations.py``) for engines whose chunk is one block of one group."""

    def __init__(
        self,
        filler: DeviceFiller,
        session: SessionKey,
        deadline_ms: int,
        now: float,
        *,
        upto: int | None = None,
        keep_share: float = KEEP_SHARE,
        on_failed: OnFailed | None = None,
    ) -> None:
        """``upto``: of the session's chunks; None for all."""
        self._filler = filler
        self._on_failed = on_failed
        self._session = session
        self._deadline = now + min(deadline_ms / 1000, PATIENCE_S)
        chain = filler.chain(session) or ()
        self._whole = len(chain)
        chain = chain[:upto]
        blocks = filler.take_blocks(len(chain) - filler.on_device(session), keep_share)
        # Asked again: taking blocks may have evicted some of the session's own.
        here = filler.on_device(session)
        items = [
            LoadItem(key, 0, here + i, (block,))
            for i, (key, block) in enumerate(zip(chain[here:], blocks, strict=False))
        ]
        self._spare = blocks[len(items) :]
        self._stream = LoadStream(items, now=now, patience_s=LOAD_PATIENCE_S)
        if items:
            filler.open_fill(self._stream, blocks)

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        if now > self._deadline:
            if self._stream.failure is None:
                # Others were in front, or it is large: a chunk that fails says so itself.
                self._on_failed = None
            self._stream.give_up(MissReason.IO_TIMEOUT)
        if not self._stream.ended:
            return None
        if self._stream.failure is not None and self._on_failed is not None:
            self._on_failed(self._stream.failure)
        lost = self._stream.lost()
        filled = self._stream.items[: len(self._stream.items) - len(lost)]
        self._filler.adopt(
            self._session,
            [(item.key, item.block_ids[0]) for item in filled],
            [*(item.block_ids[0] for item in lost), *self._spare],
        )
        chunks = self._filler.on_device(self._session)
        tokens = chunks * self._filler.tokens_per_chunk
        return Prefetched(self._session, tokens, complete=chunks == self._whole)
