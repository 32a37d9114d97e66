"""What the SSD store's index does with very many chunks: how soon it answers, and how fast."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Final

from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.extent import NOT_ENCRYPTED, PAGE_BYTES, Extent, Seal
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.snapshot import Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import SegmentSummary
from cache_tiers.types import ChunkKey
from load.raw_disk import drop_page_cache

_FINGERPRINT: Final = "bench"
_SESSION_CHUNKS: Final = 500


@dataclass(frozen=True, slots=True)
class IndexRun:
    """What an index of ``chunks`` does; medians."""

    chunks: int
    start_s: float
    """From a snapshot that is not in the page cache until lookups can be answered."""
    found_per_s: float
    """One thread's lookups, of sessions at random, of a session's chunks in order."""
    missed_per_s: float


def measure_index(folder: Path, chunks: int, repeats: int) -> IndexRun:
    """Writes a snapshot into ``folder`` and removes it."""
    files, sealer = OsFiles(), ClearSealer()
    path = folder / "snapshot"
    names = keys(2 * chunks)
    known, unknown = names[:chunks], names[chunks:]
    sessions = [known[at : at + _SESSION_CHUNKS] for at in range(0, chunks, _SESSION_CHUNKS)]
    seal = Seal(NOT_ENCRYPTED, bytes(12), bytes(48), bytes(16))
    index = Index(sealer)
    segments = []
    for number, session in enumerate(sessions):
        index.add(number, [(key, Extent(number, i, 1, seal)) for i, key in enumerate(session)])
        segments.append(SegmentSummary(number, bytes(16), Mark(0, 0), len(session), 0.0))
    write_snapshot(files, path, _FINGERPRINT, PAGE_BYTES, segments, index.contents())
    random.Random(0).shuffle(sessions)
    known = [key for session in sessions for key in session]

    def start() -> None:
        nonlocal index
        index = Index(sealer, Snapshot.open(files, path, _FINGERPRINT, PAGE_BYTES))

    def ask(some: Sequence[ChunkKey], expected: int) -> None:
        if sum(key in index for key in some) != expected:
            raise RuntimeError("the index lost or made up a chunk")

    starts, found, missed = [], [], []
    for _ in range(repeats):
        drop_page_cache(folder)
        starts.append(timeit(start, number=1))
        # Only the first lookups wait for the disk.
        ask(known, chunks)
        found.append(chunks / timeit(lambda: ask(known, chunks), number=1))
        missed.append(chunks / timeit(lambda: ask(unknown, 0), number=1))
    path.unlink()
    return IndexRun(chunks, median(starts), median(found), median(missed))


def keys(count: int) -> list[ChunkKey]:
    """So many different keys, as an engine would make them."""
    return [ChunkKey(hashlib.sha256(b"%d" % i).digest() + b"\0") for i in range(count)]
