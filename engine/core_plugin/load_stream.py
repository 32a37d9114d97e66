"""One request's load from SSD and DRAM to the device, as a state machine without I/O.

A prefix may be far larger than the DRAM tier, so it is not brought to DRAM whole and then copied:
it *streams*. Device blocks for the whole prefix are allocated first; then chunks are read into
whatever DRAM is free, copied to their device blocks, and released, in prefix order, with reads and
copies overlapping. No chunk is read twice, and a chunk that cannot be read ends the stream there:
what came before it stays, the rest is recomputed.

::

    WAITING ──read──▶ READING ──ok──▶ READY ──copy──▶ COPYING ──▶ DONE
        └──────── already in DRAM ───────▲        (pinned in DRAM)
                        READING ──fault──▶ the stream fails at this item
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from cache_tiers.types import ChunkKey, MissReason


class ItemState(Enum):
    """Where one chunk of the stream is."""

    WAITING = auto()
    READING = auto()
    READY = auto()
    COPYING = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class LoadItem:
    """One chunk and the device blocks that it goes to."""

    key: ChunkKey
    group: int
    """KV cache group, as an index into the connector's groups."""
    first_block: int
    """Logical index, within the request, of ``block_ids[0]``."""
    block_ids: tuple[int, ...]


class LoadStream:
    """Items in prefix order. Used by the scheduler thread only.

    ``patience_s`` bounds the time without progress: then the stream fails where it stands, so that
    a hung disk costs a recomputation and never a hung request.
    """

    def __init__(self, items: Sequence[LoadItem], *, now: float, patience_s: float) -> None:
        self.items = tuple(items)
        self._index = {item.key: i for i, item in enumerate(self.items)}
        if len(self._index) != len(self.items):
            raise ValueError("a chunk occurs twice in one load")
        self._states = [ItemState.WAITING] * len(self.items)
        self._count = Counter({ItemState.WAITING: len(self.items)})
        """Items in each state."""
        # States only go on, so each of these does: nothing is looked at twice in every step.
        self._begun = self._at_hand = self._done = 0
        """Leading items that wait no more, that are in DRAM or further, and that are done."""
        self._patience_s = patience_s
        self._progress_at = now
        self.opened_at = now
        self._end = len(self.items)
        """Items from here on are given up."""
        self.failure: MissReason | None = None
        self.held = False
        """Held back in this step, from reads or copies, so that others are not slowed: it waits for
        nothing else."""

    # --- what to do next -------------------------------------------------------------------

    def to_read(self, limit: int) -> list[ChunkKey]:
        """The next chunks to bring to DRAM, at most ``limit``."""
        self._begun = self._leading(self._begun, lambda state: state is not ItemState.WAITING)
        keys: list[ChunkKey] = []
        for i in range(self._begun, self._end):
            if len(keys) >= limit:
                break
            if self._states[i] is ItemState.WAITING:
                keys.append(self.items[i].key)
        return keys

    def take_run(self, limit: float = math.inf) -> list[LoadItem]:
        """The next run of ready, logically contiguous chunks of one group, at most ``limit``; now
        COPYING."""
        run: list[LoadItem] = []
        if not self.ready:
            return run
        self._pass_done()
        for i in range(self._done, self._end):
            if len(run) >= limit:
                break
            item = self.items[i]
            if self._states[i] is not ItemState.READY:
                if run:
                    break
                continue
            if run and not _follows(run[-1], item):
                break
            self._set(i, ItemState.COPYING)
            run.append(item)
        return run

    def in_dram(self) -> int:
        """Chunks of this stream that occupy DRAM now (being read, ready or being copied)."""
        return len(self.items) - self._count[ItemState.WAITING] - self._count[ItemState.DONE]

    # --- what happened ---------------------------------------------------------------------

    def on_reading(self, keys: Iterable[ChunkKey]) -> None:
        """These are on their way from SSD."""
        self._move(keys, ItemState.WAITING, ItemState.READING)

    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None:
        """These are in DRAM and pinned by the caller for this stream."""
        for key in keys:
            self._set(self._index[key], ItemState.READY)
        self._progress_at = now

    def on_copied(self, keys: Iterable[ChunkKey], now: float) -> None:
        """These are on the device."""
        self._move(keys, ItemState.COPYING, ItemState.DONE)
        self._progress_at = now

    def on_failed(self, key: ChunkKey, reason: MissReason) -> None:
        """This chunk cannot be had: it and all after it are given up."""
        self._fail_at(self._index[key], reason)

    def give_up(self, reason: MissReason) -> None:
        """Stop where the stream stands: nothing new is read or copied."""
        self._pass_done()
        for i in range(self._done, self._end):
            if self._states[i] not in (ItemState.DONE, ItemState.COPYING):
                self._fail_at(i, reason)
                return

    def cut(self, reason: MissReason, keep: int = 0) -> None:
        """Bring nothing more up: what is at hand, and the first ``keep`` items, still come."""
        self._fail_at(max(self.at_hand, keep), reason)

    def check_patience(self, now: float) -> None:
        """Give up when nothing has moved for ``patience_s`` while it was not held back."""
        if self.held:
            self._progress_at = now
        if now - self._progress_at > self._patience_s and not self._copying():
            self.give_up(MissReason.IO_TIMEOUT)

    # --- how it stands ---------------------------------------------------------------------

    def wants(self, key: ChunkKey) -> bool:
        """Whether a read of ``key`` that ends now is still of use."""
        i = self._index[key]
        return i < self._end and self._states[i] is ItemState.READING

    @property
    def at_hand(self) -> int:
        """Leading items that are on the device or in DRAM."""
        away = (ItemState.WAITING, ItemState.READING)
        self._at_hand = self._leading(self._at_hand, lambda state: state not in away)
        return self._at_hand

    @property
    def reading(self) -> int:
        """Items that are on their way from SSD, those included that are given up."""
        return self._count[ItemState.READING]

    @property
    def ready(self) -> int:
        """Items that are in DRAM, and not being copied."""
        return self._count[ItemState.READY]

    @property
    def ended(self) -> bool:
        """Nothing is being copied and nothing is left to do."""
        self._pass_done()
        return self._done >= self._end and not self._copying()

    @property
    def failed_at(self) -> int | None:
        """Index of the first item that is not on the device, once the stream has failed."""
        if self.failure is None:
            return None
        for i, state in enumerate(self._states):
            if state is not ItemState.DONE or i >= self._end:
                return i
        return None

    def lost(self) -> tuple[LoadItem, ...]:
        """Items of a failed stream whose device blocks hold nothing useful."""
        at = self.failed_at
        return () if at is None else self.items[at:]

    def pinned_leftovers(self) -> list[ChunkKey]:
        """Chunks that were made ready and will never be copied: the caller must unpin them."""
        return [
            item.key
            for item, state in zip(self.items, self._states, strict=True)
            if state is ItemState.READY
        ]

    def _copying(self) -> bool:
        return self._count[ItemState.COPYING] > 0

    def _pass_done(self) -> None:
        self._done = self._leading(self._done, lambda state: state is ItemState.DONE)

    def _leading(self, start: int, is_so: Callable[[ItemState], bool]) -> int:
        """How many leading items are in such a state, of which ``start`` were before."""
        while start < len(self.items) and is_so(self._states[start]):
            start += 1
        return start

    def _set(self, index: int, state: ItemState) -> None:
        self._count[self._states[index]] -= 1
        self._count[state] += 1
        self._states[index] = state

    def _fail_at(self, index: int, reason: MissReason) -> None:
        if index < self._end:
            self._end = index
            self.failure = reason

    def _move(self, keys: Iterable[ChunkKey], old: ItemState, new: ItemState) -> None:
        for key in keys:
            i = self._index[key]
            if self._states[i] is not old:
                raise ValueError(f"item {i} is {self._states[i].name}, not {old.name}")
            self._set(i, new)


def _follows(before: LoadItem, after: LoadItem) -> bool:
    return after.group == before.group and after.first_block == before.first_block + len(
        before.block_ids
    )
