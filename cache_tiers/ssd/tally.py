"""What a store counts, and what it says once of its disk."""

import threading
from collections.abc import Callable

from cache_tiers.ssd.health import Health


class Tally:
    """Thread safe. Sizes in bytes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` in seconds."""
        self._clock = clock
        self.reads = Health("The SSD store", "read")
        self.writes = Health("The SSD store", "write")
        self._lock = threading.Lock()
        self.bytes_written = self.bytes_read = 0
        self.corrupt_chunks = self.failed_reads = self.failed_writes = 0
        self.over_budget_chunks = self.late_reads = 0
        self.chunks_read = 0
        self._transfers = 0
        self._busy_s = self._busy_since = 0.0

    def transfer_asked(self) -> None:
        """One is on its way, or waits for its turn."""
        with self._lock:
            if not self._transfers:
                self._busy_since = self._clock()
            self._transfers += 1

    def transfer_over(self) -> None:
        """One of those, whatever became of it."""
        with self._lock:
            self._transfers -= 1
            if not self._transfers:
                self._busy_s += self._clock() - self._busy_since

    @property
    def read_busy_s(self) -> float:
        """Seconds during which any were on their way."""
        with self._lock:
            running = self._clock() - self._busy_since if self._transfers else 0.0
            return self._busy_s + running

    def brought(self, chunks: int) -> None:
        """These were read, and are what had been written."""
        with self._lock:
            self.chunks_read += chunks

    def read(self, size: int) -> None:
        """A transfer went through."""
        with self._lock:
            self.bytes_read += size
        self.reads.succeeded()

    def failed_read(self, error: Exception, chunks: int) -> None:
        """The disk failed a transfer."""
        with self._lock:
            self.failed_reads += chunks
        self.reads.failed(error)

    def late_read(self, chunks: int) -> None:
        """Chunks did not come in time."""
        with self._lock:
            self.late_reads += chunks

    def corrupt(self) -> bool:
        """A chunk was not what had been written; whether it is the first."""
        with self._lock:
            self.corrupt_chunks += 1
            return self.corrupt_chunks == 1

    def failed_write(self, error: Exception, chunks: int) -> None:
        """The disk refused chunks, or something smaller when ``chunks`` is 0."""
        self.failed_writes += chunks
        self.writes.failed(error)
