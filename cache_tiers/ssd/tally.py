"""What a store counts, and what it says once of its disk."""

import threading

from cache_tiers.ssd.health import Health


class Tally:
    """Thread safe. Sizes in bytes."""

    def __init__(self) -> None:
        self.reads = Health("The SSD store", "read")
        self.writes = Health("The SSD store", "write")
        self._lock = threading.Lock()
        self.bytes_written = self.bytes_read = 0
        self.corrupt_chunks = self.failed_reads = self.failed_writes = 0
        self.over_budget_chunks = self.late_reads = 0

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
