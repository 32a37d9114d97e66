"""Reading and authenticating every chunk on the medium, at a rate that leaves the disk to others.

What is verified is what the journals name, each chunk against its own seal, read past the page
cache where the filesystem can. Nothing is written; a server may run meanwhile, and what it removes
is passed over.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.catalogue import Holding, Listing, read_journal
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.fetcher import MERGED_BYTES
from cache_tiers.ssd.files import Files, opened, read_fully
from cache_tiers.ssd.journal import Put
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.runs import Run, merge
from cache_tiers.ssd.sealer import Sealer, can_open
from cache_tiers.ssd.segment import data_path


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, in chunks unless it says otherwise."""

    good: int = 0
    corrupt: int = 0
    """Their bytes are not those that were written, or are not there."""
    locked: int = 0
    """Nobody can open them any more: their key was destroyed."""
    failed: int = 0
    """The disk failed to give them."""
    damaged_journals: int = 0
    """Of segments; chunks that those named are not counted."""
    bytes: int = 0
    """Read of segments."""

    @property
    def sound(self) -> bool:
        """Nothing is as it should not be."""
        return not (self.corrupt or self.failed or self.damaged_journals)

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def verify(
    holding: Holding,
    files: Files,
    open_sealer: Callable[[], Sealer],
    pace: Pace,
    on_progress: Callable[[Verified], None] = lambda _: None,
) -> Verified:
    """Everything of one fingerprint. ``open_sealer`` gives the keys as they are when it
    is called; ``on_progress`` is told after each transfer of what was found so far.

    Raises what ``open_sealer`` raises, OSError when not even journals can be read, and
    StoreUnusable for what a newer version wrote.
    """
    found = Verified()
    for listing, sealer in walk(holding, files, open_sealer):
        if listing.damaged:
            found += Verified(damaged_journals=1)
        segment = _Segment(holding, listing, files, sealer)
        for transfer in segment.transfers():
            found += segment.check(transfer, pace)
            on_progress(found)
    return found


def walk(
    holding: Holding, files: Files, open_sealer: Callable[[], Sealer]
) -> Iterator[tuple[Listing, Sealer]]:
    """Every segment that is still there, and the keys: open until the next one. Raises as
    ``verify``."""
    sealer = open_sealer()
    try:
        for number in holding.segments:
            listing = read_journal(holding.path, number, files)
            if listing is None:
                continue
            if not all(can_open(sealer, extent.seal) for _, extent in listing.puts):
                # Keys may have been made since. They are on the medium before what they open.
                sealer.close()
                sealer = open_sealer()
            yield listing, sealer
    finally:
        sealer.close()


class _Segment:
    """One segment, and memory for one transfer."""

    def __init__(self, holding: Holding, listing: Listing, files: Files, sealer: Sealer) -> None:
        config = SsdConfig(
            root=holding.path.parent,
            fingerprint=holding.fingerprint,
            chunk_bytes=listing.header.chunk_bytes,
            bytes_limit=0,
        )
        self._folder = holding.path
        self._path = data_path(holding.path, listing.header.segment)
        self._header = listing.header
        self._puts = listing.puts
        self._files = files
        self._sealer = sealer
        self._codec = Codec(config, sealer)
        self._buffer = memoryview(b"")

    def transfers(self) -> list[Run]:
        """Neighbours together."""
        return merge([extent for _, extent in self._puts], MERGED_BYTES)

    def check(self, run: Run, pace: Pace) -> Verified:
        """Read and authenticate the chunks of one transfer."""
        wanted = [self._puts[position] for position in run.positions]
        openable = [put for put in wanted if can_open(self._sealer, put[1].seal)]
        locked = len(wanted) - len(openable)
        if not openable:
            return Verified(locked=locked)
        pace.wait(run.pages * PAGE_BYTES)
        try:
            size = self._read(run)
        except OSError as error:
            if error.errno == errno.ENOENT and self._is_gone():
                return Verified()
            return Verified(locked=locked, failed=len(openable))
        good = sum(self._is_good(run, put, size) for put in openable)
        return Verified(good, len(openable) - good, locked, bytes=size)

    def _is_good(self, run: Run, put: Put, size: int) -> bool:
        key, extent = put
        begin = (extent.page - run.page) * PAGE_BYTES
        stored = self._buffer[begin : begin + extent.length]
        return begin + extent.length <= size and self._codec.open(
            self._header.tenant, key, extent, stored
        )

    def _read(self, run: Run) -> int:
        size = run.pages * PAGE_BYTES
        if len(self._buffer) < size:
            self._buffer = aligned(max(size, MERGED_BYTES))
        target = self._buffer[:size]
        try:
            return _read(self._files, self._path, target, run.page, direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return _read(self._files, self._path, target, run.page, direct=False)

    def _is_gone(self) -> bool:
        """Whether the segment was removed, its journal first, rather than its data lost."""
        return read_journal(self._folder, self._header.segment, self._files) is None


def _read(files: Files, path: Path, target: memoryview, page: int, *, direct: bool) -> int:
    with opened(files, path, writable=False, direct=direct) as file:
        return read_fully(files, file, [target], page * PAGE_BYTES)
