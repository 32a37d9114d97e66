"""What is where, in memory: a snapshot, and what changed since."""

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from cache_tiers.ssd.extent import Extent
from cache_tiers.ssd.index_state import IndexState
from cache_tiers.ssd.journal import MOST_KEY_BYTES, Put
from cache_tiers.ssd.sealer import Keys
from cache_tiers.ssd.snapshot import Contents, Snapshot
from cache_tiers.types import ChunkKey, Standing

SEGMENT_SHIFT = 32
"""Of a place's number: below it is the page."""
_MARKED_AT_ONCE = 1_000
"""So that nobody waits long for the lock."""


class Index:
    """From key to extent. A key is in one place at most. Keys have 1 to 64 bytes.

    Any thread. ``in``, ``find`` and ``len`` take no lock; the others take one, never for longer
    than what they change needs. A chunk is *known* until it is forgotten; one whose data key was
    destroyed is known, for its pages are taken, but not found.
    """

    def __init__(self, keys: Keys, base: Snapshot | None = None) -> None:
        self._lock = threading.Lock()
        self._owners = keys.owners
        self._kept = keys.kept
        # Lookups read this once: what they see then is one state, also when a rebase comes between.
        self._state = IndexState(base or Snapshot.empty())

    def __len__(self) -> int:
        """Chunks known."""
        return self._state.chunks

    def __contains__(self, key: ChunkKey) -> bool:
        state = self._state
        extent = state.added.get(key)
        if extent is None:
            base = state.base
            number = base.number(key)
            if number >= 0 and not state.dead[number]:
                return base.owner(number) in self._owners or base.nonce(number) in self._kept
            # It may have been on its way from the base to here.
            extent = state.added.get(key)
            if extent is None:
                return False
        return extent.seal.owner in self._owners or extent.seal.nonce in self._kept

    def find(self, keys: Sequence[ChunkKey]) -> list[Extent | None]:
        """Where each chunk is, of those that can be opened."""
        return [self._openable(key) for key in keys]

    def places(self, keys: Iterable[ChunkKey]) -> list[int]:
        """As ``find``, in less time: a number for each place, with that of the segment from
        ``SEGMENT_SHIFT`` on; 0 for none."""
        return [self._place(key) if key in self else 0 for key in keys]

    def live(self, segment: int) -> tuple[int, int]:
        """Known chunks of a segment, and the pages they take."""
        with self._lock:
            held = self._state.segments.get(segment)
            return (held.chunks, held.pages) if held else (0, 0)

    def mark(self, keys: Sequence[ChunkKey], standing: Standing) -> None:
        """Give known chunks another standing, which they keep until they are forgotten."""
        for start in range(0, len(keys), _MARKED_AT_ONCE):
            with self._lock:
                for key in keys[start : start + _MARKED_AT_ONCE]:
                    self._state.mark(key, standing)

    def pages_of(self, segment: int, standing: Standing) -> int:
        """Pages that a segment's chunks of this standing take; not for ORDINARY."""
        with self._lock:
            held = self._state.segments.get(segment)
            return held.pages_by[standing] if held else 0

    def standings(self, segment: int) -> dict[ChunkKey, Standing]:
        """Of a segment's chunks, those that are not ORDINARY."""
        with self._lock:
            held = self._state.segments.get(segment)
            return {key: standing for key, (standing, _) in held.marks.items()} if held else {}

    def of_segment(self, segment: int) -> list[Put]:
        """Known chunks of a segment, by page."""
        with self._lock:
            state = self._state
            added, dead = state.added_in(segment), state.dead_in(segment)
        return _by_page(state.base, segment, dead, added)

    def add(self, segment: int, puts: Iterable[Put]) -> list[Put]:
        """Chunks of one segment; of two places for one key the later holds: returns those that do
        not. A key of another size than the index takes is not added."""
        replaced = []
        with self._lock:
            for key, extent in puts:
                if extent.segment == segment and 0 < len(key) <= MOST_KEY_BYTES:
                    before = self._state.put(key, extent)
                    if before is not None and _place(before) != _place(extent):
                        replaced.append((key, before))
        return replaced

    def forget(self, keys: Iterable[ChunkKey]) -> list[Put]:
        """Those that were known."""
        with self._lock:
            taken = [(key, self._state.take(key)) for key in keys]
        return [(key, extent) for key, extent in taken if extent is not None]

    def forget_extent(self, key: ChunkKey, extent: Extent) -> bool:
        """As ``forget_at``, with the extent's place."""
        return self.forget_at(key, extent.segment, extent.page)

    def forget_at(self, key: ChunkKey, segment: int, page: int) -> bool:
        """Forget a chunk if that is still where it is; whether it was."""
        with self._lock:
            now = self._state.get(key)
            if now is None or _place(now) != (segment, page):
                return False
            self._state.take(key)
            return True

    def forget_segment(self, segment: int) -> list[Extent]:
        """Forget all chunks of a segment: where they were, by page."""
        with self._lock:
            state = self._state
            added, dead = state.added_in(segment), state.dead_in(segment)
            state.drop_base(segment)
            for key, _ in added:
                state.take(key)
        return [extent for _, extent in _by_page(state.base, segment, dead, added)]

    def drop_base_segment(self, segment: int) -> None:
        """Forget what the snapshot says of a segment."""
        with self._lock:
            self._state.drop_base(segment)

    def contents(self) -> Contents:
        """All that is known now, for ``write_snapshot``. The segments' marks are to be taken
        before: what a journal says behind its mark may be in the contents already, but what it
        says before must be."""
        with self._lock:
            state = self._state
            return Contents(state.base, bytes(state.dead), state.added.copy())

    def rebase(self, base: Snapshot, contents: Contents) -> None:
        """Go on with ``base``, which was written from ``contents``, and what changed since those
        were taken. ValueError when they were taken before another rebase."""
        with self._lock:
            now = self._state
            if contents.base is not now.base:
                raise ValueError("the contents are of another base")
            state = IndexState(base)
            died = np.frombuffer(now.dead, np.uint8) > np.frombuffer(contents.dead, np.uint8)
            for number in np.flatnonzero(died).tolist():
                state.kill_at(*now.base.place(number))
            for key, extent in contents.added.items():
                if now.added.get(key) is not extent:
                    state.kill_at(extent.segment, extent.page)
            for key, extent in now.added.items():
                if contents.added.get(key) is not extent or extent.segment not in base.segments:
                    state.put(key, extent)
            for held in now.segments.values():
                for key, (standing, _) in held.marks.items():
                    state.mark(key, standing)
            self._state = state

    def reset(self, base: Snapshot | None) -> None:
        """Know what ``base`` says and nothing else."""
        with self._lock:
            self._state = IndexState(base or Snapshot.empty())

    @property
    def changes(self) -> int:
        """Chunks added since the snapshot: what a start would have to replay."""
        return len(self._state.added)

    def close(self) -> None:
        """Know nothing any more; the snapshot is unmapped when the last lookup has ended."""
        self.reset(None)

    def _place(self, key: ChunkKey) -> int:
        """Of a chunk that was there a moment ago."""
        state = self._state
        extent = state.added.get(key)
        if extent is not None:
            return extent.segment << SEGMENT_SHIFT | extent.page
        number = state.number(key)
        if number < 0:
            return 0
        segment, page = state.base.place(number)
        return segment << SEGMENT_SHIFT | page

    def _openable(self, key: ChunkKey) -> Extent | None:
        extent = self._state.get(key)
        if extent is None:
            return None
        seal = extent.seal
        return extent if seal.owner in self._owners or seal.nonce in self._kept else None


def _place(extent: Extent) -> tuple[int, int]:
    return extent.segment, extent.page


def _by_page(base: Snapshot, segment: int, dead: bytes, added: list[Put]) -> list[Put]:
    """A segment's chunks: those of the base that are not dead, and those added."""
    numbers = zip(base.numbers_of(segment), dead, strict=True)
    held = [put for number, gone in numbers if not gone and (put := base.put(number))]
    return sorted(held + added, key=lambda put: put[1].page)
