"""A chunk store in memory: for tests, for the simulator, and for a server without a disk."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from cache_tiers.store import ReadOutcome, StoreStats, WriteOutcome
from cache_tiers.types import ChunkKey


class MemoryStore:
    """Keeps copies, evicts the least recently used chunk, and forgets everything at the end of
    the process. Thread safe. ``bytes_limit`` counts chunks only."""

    def __init__(self, chunk_bytes: int, bytes_limit: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._bytes_limit = bytes_limit
        self._lock = threading.Lock()
        self._chunks: OrderedDict[ChunkKey, bytes] = OrderedDict()
        self._closed = False
        self._bytes_written = self._bytes_read = self._evicted_chunks = 0

    @property
    def chunk_bytes(self) -> int:
        return self._chunk_bytes

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

    def put(self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview]) -> list[WriteOutcome]:
        views = self._checked(keys, chunks)
        asked = set(keys)
        with self._lock:
            return [self._put(key, view, asked) for key, view in zip(keys, views, strict=True)]

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        with self._lock:
            return sum(self._chunks.pop(key, None) is not None for key in keys)

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

    def _checked(self, keys: Sequence[ChunkKey], buffers: Sequence[memoryview]) -> list[memoryview]:
        views = [buffer.cast("B") for buffer in buffers]
        if len(views) != len(keys) or any(view.nbytes != self._chunk_bytes for view in views):
            raise ValueError(f"one buffer of {self._chunk_bytes} bytes a key")
        return views

    def _put(self, key: ChunkKey, view: memoryview, asked: set[ChunkKey]) -> WriteOutcome:
        if self._closed:
            return WriteOutcome.REFUSED
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return WriteOutcome.PRESENT
        if (len(self._chunks) + 1) * self._chunk_bytes > self._bytes_limit:
            victim = next((held for held in self._chunks if held not in asked), None)
            if victim is None:
                return WriteOutcome.REFUSED
            del self._chunks[victim]
            self._evicted_chunks += 1
        self._chunks[key] = bytes(view)
        self._bytes_written += self._chunk_bytes
        return WriteOutcome.STORED
