"""The chunk store on an SSD. See ``cache_tiers.store`` for what it promises."""

import errno
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from cache_tiers.eviction.lru import LeastRecentlyUsed
from cache_tiers.eviction.policy import EvictionPolicy
from cache_tiers.ssd.files import Files, OsFiles
from cache_tiers.ssd.health import Health
from cache_tiers.ssd.index import Index, Location
from cache_tiers.ssd.journal import Header
from cache_tiers.ssd.neighbours import LOCK
from cache_tiers.ssd.runs import Run, merge
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.space import Space
from cache_tiers.store import ReadOutcome, StoreInUse, StoreStats, StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey

_log = logging.getLogger(__name__)

_READ_BYTES = 8 * 2**20
"""Neighbours are merged into reads of this size; beyond it they gain nothing (measured)."""
_USUAL_KEY_BYTES = 64
_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ESTALE})
"""Errors that say that what is on the medium is not what this process left there."""


@dataclass(frozen=True, slots=True)
class SsdConfig:
    """Of one store; sizes in bytes."""

    root: Path
    """A folder of the store's own; made if need be."""
    fingerprint: str
    """Names the folder under ``root``; chunks of another are never read."""
    chunk_bytes: int
    bytes_limit: int
    """Over everything under ``root``."""
    segment_bytes: int = 64 * 2**20
    """Evicted at once. Made smaller for a small limit, and never less than a chunk."""

    @property
    def slots_per_segment(self) -> int:
        """Chunks in a full segment; eight segments fit under the limit."""
        return max(1, min(self.segment_bytes, self.bytes_limit // 8) // self.chunk_bytes)


class SsdStore:
    """Thread safe. Writers take turns; readers wait for nobody."""

    @classmethod
    def open(
        cls,
        config: SsdConfig,
        clock: Callable[[], float] = time.time,
        *,
        files: Files | None = None,
        policy: EvictionPolicy | None = None,
    ) -> "SsdStore":
        """Open or make the store. ``clock`` gives seconds since the epoch.

        Raises StoreUnusable when the folder cannot be used or another process uses it.
        """
        if not _FINGERPRINT.fullmatch(config.fingerprint) or config.fingerprint == LOCK:
            raise StoreUnusable(f"{config.fingerprint!r} cannot name a folder")
        if config.chunk_bytes <= 0 or config.segment_bytes <= 0:
            raise StoreUnusable("a chunk and a segment have at least one byte")
        store = cls(config, clock, files or OsFiles(), policy or LeastRecentlyUsed())
        store._start()
        return store

    def __init__(
        self, config: SsdConfig, clock: Callable[[], float], files: Files, policy: EvictionPolicy
    ) -> None:
        self._config = config
        self._clock = clock
        self._index = Index()
        self._space = Space(
            files,
            policy,
            self._index,
            config.root,
            Header(config.fingerprint, 0, config.chunk_bytes),
            config.slots_per_segment,
            config.bytes_limit,
        )
        self._writing = threading.Lock()
        self._closed = False
        self._stale = False
        self._reads = Health("The SSD store", "read")
        self._writes = Health("The SSD store", "write")
        self._counting = threading.Lock()
        self._deleted: dict[int, list[int]] = {}
        """Slots forgotten in memory but not yet in their segment's journal."""
        self._bytes_written = self._bytes_read = 0
        self._corrupt_chunks = self._failed_reads = self._failed_writes = 0

    @property
    def chunk_bytes(self) -> int:
        return self._config.chunk_bytes

    def contains(self, key: ChunkKey) -> bool:
        return not self._closed and key in self._index

    def get(self, keys: Sequence[ChunkKey], into: Sequence[memoryview]) -> list[ReadOutcome]:
        views = self._checked(keys, into)
        outcomes = [ReadOutcome.MISSING] * len(keys)
        if self._closed:
            return outcomes
        places = self._index.use(keys, self._clock())
        for run in merge(places, max(1, _READ_BYTES // self.chunk_bytes)):
            buffers = [views[position] for position in run.positions]
            size = self._read(run, buffers)
            if isinstance(size, ReadOutcome):
                for position in run.positions:
                    outcomes[position] = size
                continue
            for i, position in enumerate(run.positions):
                place = places[position]
                assert place is not None
                whole = (i + 1) * self.chunk_bytes <= size
                if whole and xxhash.xxh3_128_digest(views[position]) == place.digest:
                    outcomes[position] = ReadOutcome.OK
                else:
                    outcomes[position] = ReadOutcome.CORRUPT
                    self._found_corrupt(keys[position], place)
        return outcomes

    def put(self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview]) -> list[WriteOutcome]:
        views = dict(reversed(list(zip(keys, self._checked(keys, chunks), strict=True))))
        with self._writer():
            if self._closed:
                return [WriteOutcome.REFUSED] * len(keys)
            ready = self._ready()
            now = self._clock()
            places = self._index.use(keys, now)
            present = {key for key, place in zip(keys, places, strict=True) if place}
            keep = {place.segment for place in places if place}
            fresh = [key for key in dict.fromkeys(keys) if key not in present]
            stored = self._store(fresh, [views[key] for key in fresh], keep) if ready else 0
        new = set(fresh[:stored])
        outcomes = []
        for key in keys:
            if key in new:
                new.discard(key)
                present.add(key)
                outcomes.append(WriteOutcome.STORED)
            else:
                outcomes.append(WriteOutcome.PRESENT if key in present else WriteOutcome.REFUSED)
        return outcomes

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        with self._writer():
            if self._closed:
                return 0
            places = self._index.forget(keys)
            self._forgotten(places)
            self._ready()
        return len(places)

    def flush(self) -> None:
        with self._writer():
            self._flush()

    def stats(self) -> StoreStats:
        return StoreStats(
            chunks=len(self._index),
            bytes_used=self._space.bytes_used,
            bytes_limit=self._config.bytes_limit,
            bytes_written=self._bytes_written,
            bytes_read=self._bytes_read,
            evicted_chunks=self._space.evicted_chunks,
            corrupt_chunks=self._corrupt_chunks,
            failed_reads=self._failed_reads,
            failed_writes=self._failed_writes,
            healthy=self._writes.healthy,
        )

    def close(self) -> None:
        with self._writer():
            self._flush()
            self._closed = True
            self._space.unlock()

    def _start(self) -> None:
        root, limit = self._config.root, self._config.bytes_limit
        try:
            self._space.load(self._deleted)
            needed = self._space.smallest(_USUAL_KEY_BYTES)
            if limit < needed:
                raise StoreUnusable(
                    f"a limit of {limit} bytes holds no chunk of {self.chunk_bytes} bytes: "
                    f"allow at least {needed} bytes, or turn the store off"
                )
            if not self._space.make_room(0, ()):
                raise StoreUnusable(
                    f"files that are not the store's fill {root} beyond the limit of {limit} "
                    "bytes: give the store a folder of its own"
                )
        except BlockingIOError:
            raise StoreInUse(f"{root} is in use by another process or store") from None
        except OSError as error:
            self._space.unlock()
            raise StoreUnusable(f"{root} cannot be used: {error}") from error
        except StoreUnusable:
            self._space.unlock()
            raise

    def _checked(self, keys: Sequence[ChunkKey], buffers: Sequence[memoryview]) -> list[memoryview]:
        views = [buffer.cast("B") for buffer in buffers]
        if len(views) != len(keys) or any(view.nbytes != self.chunk_bytes for view in views):
            raise ValueError(f"one buffer of {self.chunk_bytes} bytes a key")
        return views

    @contextmanager
    def _writer(self) -> Iterator[None]:
        with self._writing:
            try:
                yield
            finally:
                self._space.measure()

    def _read(self, run: Run, buffers: list[memoryview]) -> int | ReadOutcome:
        """Bytes read from the run's start on, or what became of all of its chunks."""
        try:
            size = run.segment.read(run.slot, buffers)
        except OSError as error:
            if error.errno in _GONE:
                if self._space.lose(run.segment):
                    self._stale = True
                return ReadOutcome.MISSING
            with self._counting:
                self._failed_reads += len(buffers)
            self._reads.failed(error)
            return ReadOutcome.FAILED
        with self._counting:
            self._bytes_read += size
        self._reads.succeeded()
        return size

    def _found_corrupt(self, key: ChunkKey, place: Location) -> None:
        if self._index.forget_place(key, place):
            self._forgotten([place])
            with self._counting:
                self._corrupt_chunks += 1
                first = self._corrupt_chunks == 1
            if first:
                _log.warning(
                    "A chunk on the SSD was not what had been written (%s): it is recomputed. "
                    "Further ones are only counted.",
                    place.segment.data_path,
                )

    def _forgotten(self, places: Iterable[Location]) -> None:
        """Have the next writer write it down: a reader does not wait for the write lock."""
        with self._counting:
            for place in places:
                self._deleted.setdefault(place.segment.id, []).append(place.slot)

    def _ready(self) -> bool:
        """Bring memory and medium together; whether that worked."""
        try:
            if self._stale:
                self._space.load(self._deleted)
                self._stale = False
            for segment_id in list(self._deleted):
                self._write_deletes(segment_id)
        except (OSError, StoreUnusable) as error:
            self._write_failed(error, 0)
            return False
        return True

    def _write_deletes(self, segment_id: int) -> None:
        with self._counting:
            slots = self._deleted.pop(segment_id)
        try:
            self._space.forget(segment_id, slots)
        except OSError:
            with self._counting:
                self._deleted.setdefault(segment_id, []).extend(slots)
            raise

    def _store(
        self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview], keep: set[Segment]
    ) -> int:
        """Write as many as fit; returns how many, from the first on."""
        stored = 0
        try:
            while stored < len(keys):
                found = self._space.reserve(keys[stored:], keep)
                if found is None:
                    break
                segment, count = found
                end = stored + count
                puts = segment.append(keys[stored:end], chunks[stored:end])
                self._index.add(segment, puts)
                segment.last_used = max(segment.last_used, self._clock())
                keep.add(segment)
                stored = end
        except OSError as error:
            self._space.retire()
            self._write_failed(error, len(keys) - stored)
        else:
            if stored:
                self._writes.succeeded()
        self._bytes_written += stored * self.chunk_bytes
        return stored

    def _write_failed(self, error: Exception, chunks: int) -> None:
        if isinstance(error, OSError) and error.errno in _GONE:
            self._stale = True
        self._failed_writes += chunks
        self._writes.failed(error)

    def _flush(self) -> None:
        if self._closed or not self._ready():
            return
        try:
            self._space.sync()
        except OSError as error:
            self._write_failed(error, 0)
