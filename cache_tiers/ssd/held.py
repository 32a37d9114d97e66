"""What is known of one segment: how much of it is of use, and what was said of its chunks."""

from collections import Counter
from typing import NamedTuple

from cache_tiers.types import ChunkKey, Standing


class Mark(NamedTuple):
    """What was said of a chunk."""

    rank: Standing = Standing.ORDINARY
    stranded: bool = False

    @property
    def standing(self) -> Standing:
        """What it comes to."""
        if self.stranded and self.rank is not Standing.PINNED:
            return Standing.SUPERSEDED
        return self.rank


UNMARKED = Mark()


class Held:
    """What an index knows of one segment. Guarded by the index's lock."""

    __slots__ = ("added", "chunks", "marks", "pages", "pages_by")

    def __init__(self, chunks: int, pages: int) -> None:
        self.chunks = chunks
        self.pages = pages
        self.added: set[ChunkKey] = set()
        self.marks: dict[ChunkKey, tuple[Mark, int]] = {}
        """Of chunks of which anything was said, and their pages."""
        self.pages_by: Counter[Standing] = Counter()

    def mark(self, key: ChunkKey, mark: Mark, pages: int) -> None:
        self.unmark(key)
        if mark != UNMARKED:
            self.marks[key] = (mark, pages)
            self.pages_by[mark.standing] += pages

    def unmark(self, key: ChunkKey) -> Mark:
        mark, pages = self.marks.pop(key, (UNMARKED, 0))
        self.pages_by[mark.standing] -= pages
        return mark
