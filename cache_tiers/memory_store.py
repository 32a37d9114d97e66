"""A chunk store in memory: for tests, for the simulator, and for a server without a disk."""

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from cache_tiers.eviction.expectation import Expectation, MakeExpectation
from cache_tiers.store import Reading, ReadOutcome, StoreStats, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing


class _Read:
    """A read that was over when it began."""

    released = True

    def __init__(self, outcomes: list[ReadOutcome]) -> None:
        self._outcomes = outcomes

    def outcomes(self) -> list[ReadOutcome]:
        return list(self._outcomes)


class MemoryStore:
    """Keeps copies, evicts the chunk that is worth the least, among equals the longest unused, and
    forgets everything at the end of the process. Thread safe. ``bytes_limit`` counts chunks
    only."""

    def __init__(self, chunk_bytes: int, bytes_limit: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._bytes_limit = bytes_limit
        self._lock = threading.Lock()
        self._chunks: OrderedDict[ChunkKey, bytes] = OrderedDict()
        self._owners: dict[ChunkKey, SessionKey] = {}
        self._standings: dict[ChunkKey, Standing] = {}
        self._evicted_pins: list[ChunkKey] = []
        self._told: MakeExpectation | None = None
        self._expected: Expectation | None = None
        self.torn: tuple[SessionKey, ...] = ()
        self._closed = False
        self._bytes_written = self._bytes_read = self._evicted_chunks = 0

    @property
    def chunk_bytes(self) -> int:
        return self._chunk_bytes

    @property
    def budget(self) -> None:
        return None

    def contains(self, key: ChunkKey) -> bool:
        return key in self._chunks

    def get(self, keys: Sequence[ChunkKey], into: Sequence[memoryview]) -> list[ReadOutcome]:
        views = self._checked(keys, into)
        with self._lock:
            found = [self._chunks.get(key) for key in keys]
            for key, chunk in zip(keys, found, strict=True):
                if chunk is not None:
                    self._chunks.move_to_end(key)
                    self._bytes_read += self._chunk_bytes
        for view, chunk in zip(views, found, strict=True):
            if chunk is not None:
                view[:] = chunk
        return [ReadOutcome.MISSING if chunk is None else ReadOutcome.OK for chunk in found]

    def read(
        self, keys: Sequence[ChunkKey], into: Sequence[memoryview], deadline_s: float
    ) -> Reading:
        del deadline_s  # Nothing is waited for.
        return _Read(self.get(keys, into))

    def put(
        self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview], owner: SessionKey
    ) -> list[WriteOutcome]:
        views = self._checked(keys, chunks)
        asked = set(keys)
        with self._lock:
            return [
                self._put(key, view, owner, asked) for key, view in zip(keys, views, strict=True)
            ]

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        with self._lock:
            return sum(self._forget(key) for key in keys)

    def shred(self, session: SessionKey, keep: Iterable[ChunkKey] = ()) -> bool:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the store is closed")
            owned = {key for key, owner in self._owners.items() if owner == session}
            for key in owned.difference(keep):
                self._forget(key)
            return bool(owned)

    def rank(self, keys: Sequence[ChunkKey], standing: Standing) -> None:
        with self._lock:
            for key in keys:
                self._standings.pop(key, None)
                if standing is not Standing.ORDINARY and key in self._chunks:
                    self._standings[key] = standing

    def expect(self, expected: MakeExpectation) -> None:
        with self._lock:
            self._told = expected

    def take_evicted_pins(self) -> list[ChunkKey]:
        with self._lock:
            taken, self._evicted_pins = self._evicted_pins, []
            return taken

    def flush(self) -> None:
        """Nothing is on its way anywhere."""

    def stats(self) -> StoreStats:
        chunks = len(self._chunks)
        return StoreStats(
            chunks=chunks,
            bytes_used=chunks * self._chunk_bytes,
            bytes_limit=self._bytes_limit,
            bytes_written=self._bytes_written,
            bytes_read=self._bytes_read,
            device_bytes_written=0,
            evicted_chunks=self._evicted_chunks,
            corrupt_chunks=0,
            failed_reads=0,
            failed_writes=0,
            healthy=True,
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._chunks.clear()
            self._owners.clear()
            self._standings.clear()

    def _checked(self, keys: Sequence[ChunkKey], buffers: Sequence[memoryview]) -> list[memoryview]:
        views = [buffer.cast("B") for buffer in buffers]
        if len(views) != len(keys) or any(view.nbytes != self._chunk_bytes for view in views):
            raise ValueError(f"one buffer of {self._chunk_bytes} bytes a key")
        return views

    def _forget(self, key: ChunkKey) -> bool:
        self._owners.pop(key, None)
        self._standings.pop(key, None)
        return self._chunks.pop(key, None) is not None

    def _put(
        self, key: ChunkKey, view: memoryview, owner: SessionKey, asked: set[ChunkKey]
    ) -> WriteOutcome:
        if self._closed:
            return WriteOutcome.REFUSED
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return WriteOutcome.PRESENT
        if (len(self._chunks) + 1) * self._chunk_bytes > self._bytes_limit:
            victim = self._victim(asked)
            if victim is None:
                return WriteOutcome.REFUSED
            if self._standing(victim) is Standing.PINNED:
                self._evicted_pins.append(victim)
            self._forget(victim)
            self._evicted_chunks += 1
        self._chunks[key] = bytes(view)
        self._owners[key] = owner
        self._bytes_written += self._chunk_bytes
        return WriteOutcome.STORED

    def _victim(self, asked: set[ChunkKey]) -> ChunkKey | None:
        held = (key for key in self._chunks if key not in asked)
        if (told := self._told) is not None:
            self._told, self._expected = None, told()
        if self._expected is not None:
            return min(held, key=self._worth(self._expected), default=None)
        if not self._standings:
            return next(held, None)
        return min(held, key=self._standing, default=None)

    def _standing(self, key: ChunkKey) -> Standing:
        return self._standings.get(key, Standing.ORDINARY)

    def _worth(self, expected: Expectation) -> Callable[[ChunkKey], tuple[Standing, float]]:
        """How much a chunk is worth. There is no clock here: what is nobody's was just used."""
        useful = expected.useful(self._chunks)
        stranded = {key for stake in expected.stakes for key in stake.chain} - useful.keys()
        nobodys = expected.of_nobody(1, expected.now)
        self.torn = tuple(
            stake.session
            for stake in expected.stakes
            if not self._chunks.keys().isdisjoint(stake.chain[stake.hole(self._chunks) :])
        )

        def worth(key: ChunkKey) -> tuple[Standing, float]:
            standing = self._standing(key)
            if key in stranded and standing is not Standing.PINNED:
                standing = Standing.SUPERSEDED
            return standing, useful.get(key, nobodys)

        return worth
