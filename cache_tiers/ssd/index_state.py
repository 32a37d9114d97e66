"""A snapshot and what changed since, without locks."""

from collections import Counter

from cache_tiers.ssd.extent import Extent
from cache_tiers.ssd.journal import Put
from cache_tiers.ssd.snapshot import Snapshot
from cache_tiers.types import ChunkKey, Standing


class Held:
    """What is known of one segment."""

    __slots__ = ("added", "chunks", "marks", "pages", "pages_by")

    def __init__(self, chunks: int, pages: int) -> None:
        self.chunks = chunks
        self.pages = pages
        self.added: set[ChunkKey] = set()
        self.marks: dict[ChunkKey, tuple[Standing, int]] = {}
        """Standing and pages of chunks that are not ORDINARY."""
        self.pages_by: Counter[Standing] = Counter()

    def mark(self, key: ChunkKey, standing: Standing, pages: int) -> None:
        self.unmark(key)
        if standing is not Standing.ORDINARY:
            self.marks[key] = (standing, pages)
            self.pages_by[standing] += pages

    def unmark(self, key: ChunkKey) -> Standing:
        standing, pages = self.marks.pop(key, (Standing.ORDINARY, 0))
        self.pages_by[standing] -= pages
        return standing


class IndexState:
    """A base and what changed since. Changes are made under the index's lock, each so that a
    lookup beside it finds a chunk that is known before and after."""

    __slots__ = ("added", "base", "chunks", "dead", "segments")

    def __init__(self, base: Snapshot) -> None:
        self.base = base
        self.dead = bytearray(len(base))
        """One byte a record of the base, 1 for those forgotten or found in ``added``."""
        self.added: dict[ChunkKey, Extent] = {}
        self.chunks = len(base)
        self.segments = {
            summary.id: Held(summary.count, summary.chunk_pages)
            for summary in base.segments.values()
            if summary.count
        }

    def number(self, key: ChunkKey) -> int:
        """The base's record of a chunk that is still there, -1 when there is none."""
        number = self.base.number(key)
        return -1 if number >= 0 and self.dead[number] else number

    def get(self, key: ChunkKey) -> Extent | None:
        extent = self.added.get(key)
        if extent is None:
            number = self.number(key)
            if number >= 0:
                return self.base.extent(number)
            # It may have been on its way from the base to here.
            extent = self.added.get(key)
        return extent

    def mark(self, key: ChunkKey, standing: Standing) -> None:
        """Give a chunk another standing, if it is there."""
        extent = self.get(key)
        if extent is not None:
            self.segments[extent.segment].mark(key, standing, extent.pages)

    def put(self, key: ChunkKey, extent: Extent) -> Extent | None:
        """Take over a chunk, with its standing: where it was before."""
        before = self.added.get(key)
        number = self.number(key) if before is None else -1
        self.added[key] = extent
        standing = Standing.ORDINARY
        if before is not None:
            standing = self.segments[before.segment].unmark(key)
            self._leave(before.segment, before.pages, key)
        elif number >= 0:
            before = self.base.extent(number)
            standing = self.segments[before.segment].unmark(key)
            self._kill(number, before.segment)
        held = self.segments.setdefault(extent.segment, Held(0, 0))
        held.mark(key, standing, extent.pages)
        held.added.add(key)
        held.chunks += 1
        held.pages += extent.pages
        self.chunks += 1
        return before

    def take(self, key: ChunkKey) -> Extent | None:
        """Forget a chunk: where it was."""
        extent = self.added.pop(key, None)
        if extent is not None:
            self.segments[extent.segment].unmark(key)
            self._leave(extent.segment, extent.pages, key)
        elif (number := self.number(key)) >= 0:
            extent = self.base.extent(number)
            self.segments[extent.segment].unmark(key)
            self._kill(number, extent.segment)
        return extent

    def kill_at(self, segment: int, page: int) -> None:
        """Forget the base's chunk at a place, if there is one."""
        number = self.base.number_at(segment, page)
        if number >= 0 and not self.dead[number]:
            self._kill(number, segment)

    def drop_base(self, segment: int) -> None:
        """Forget the base's chunks of a segment."""
        numbers = self.base.numbers_of(segment)
        alive = self.dead.count(0, numbers.start, numbers.stop)
        self.dead[numbers.start : numbers.stop] = b"\1" * len(numbers)
        if alive:
            pages = sum(extent.pages for _, extent in self.added_in(segment))
            held = self.segments[segment]
            for key in held.marks.keys() - held.added:
                held.unmark(key)
            self._reduce(segment, alive, held.pages - pages)

    def added_in(self, segment: int) -> list[Put]:
        held = self.segments.get(segment)
        return [(key, self.added[key]) for key in held.added] if held else []

    def dead_in(self, segment: int) -> bytes:
        numbers = self.base.numbers_of(segment)
        return bytes(self.dead[numbers.start : numbers.stop])

    def _kill(self, number: int, segment: int) -> None:
        self.dead[number] = 1
        self._reduce(segment, 1, self.base.pages(number))

    def _leave(self, segment: int, pages: int, key: ChunkKey) -> None:
        self.segments[segment].added.discard(key)
        self._reduce(segment, 1, pages)

    def _reduce(self, segment: int, chunks: int, pages: int) -> None:
        held = self.segments[segment]
        held.chunks -= chunks
        # A record that was damaged since it was counted may name another length.
        held.pages = max(0, held.pages - pages)
        self.chunks -= chunks
        if not held.chunks:
            del self.segments[segment]
