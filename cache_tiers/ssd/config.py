"""What one store is of."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache_tiers.ssd.extent import PAGE_BYTES, pages

READ_THREADS: Final = 8
"""Twice what keeps a drive busy: while one waits for it, another decrypts."""
_SEGMENTS = 8
"""As many full segments fit under the limit at least."""
_MOST_STEP_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdConfig:
    """Of one store; sizes in bytes, times in seconds."""

    root: Path
    """A folder of the store's own; made if need be."""
    fingerprint: str
    """Names the folder under ``root``; chunks of another are never read."""
    chunk_bytes: int
    bytes_limit: int
    """Over everything under ``root``."""
    free_floor: int = 0
    """Free bytes of the filesystem that are left to its other users: below it the store shrinks."""
    segment_bytes: int = 256 * 2**20
    """Evicted at once. Made smaller for a small limit, and never less than a chunk."""
    compress: bool = False
    """Store the exponents of bf16 compressed: more capacity, slower reads."""
    read_bytes_per_s: float = math.inf
    """Chunks are read no faster than this."""
    read_threads: int = READ_THREADS
    read_deadline_s: float = 2.0
    """A transfer that takes longer says that the disk hangs: everything is a miss until it ends."""
    snapshot_after: int = 20_000
    """Records that a start may have to replay from journals before a snapshot is worth writing."""

    @property
    def segment_pages(self) -> int:
        """Pages of a full segment."""
        size = min(self.segment_bytes, self.bytes_limit // _SEGMENTS)
        return max(pages(self.chunk_bytes), size // PAGE_BYTES)

    @property
    def step_bytes(self) -> int:
        """How far ahead a segment's file is allocated."""
        return min(_MOST_STEP_BYTES, self.segment_pages * PAGE_BYTES // 4)
