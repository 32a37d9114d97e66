"""The contract of a chunk store: the tier below DRAM.

A store maps ``ChunkKey`` to bytes of one fixed size, within one fingerprint. It is a cache: every
method may forget, none may lie. A fault is a miss (``ReadOutcome``), never an exception on the
read path and never a wrong byte.

Who calls what, on which thread:

===================  =======================  ==============================================
method               thread                   may it block on I/O?
===================  =======================  ==============================================
``contains``         scheduler thread         no: memory only, at most a short lock
``stats``            scheduler thread         no
``get`` / ``put``    I/O threads, concurrent  yes
``delete``           an I/O thread            yes
``flush``, ``close``  an I/O thread           yes
===================  =======================  ==============================================

Errors::

    StoreError            the root; only constructors raise it
    └── StoreUnusable     the folder cannot be used: not a folder, no permission, foreign format
        └── StoreInUse    another process has it open: it may be free in a moment
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from cache_tiers.types import ChunkKey


class StoreError(Exception):
    """A store failed."""


class StoreUnusable(StoreError):
    """The store's folder cannot be used; the message says what is wrong and what to do."""


class StoreInUse(StoreUnusable):
    """Another process has the store open."""


class ReadOutcome(Enum):
    """What became of one chunk of a ``get``."""

    OK = auto()
    """The bytes are in the buffer and their checksum was right."""
    MISSING = auto()
    """The store does not hold the chunk (evicted, deleted, never written)."""
    CORRUPT = auto()
    """The bytes on disk are not the ones written; the store has forgotten the chunk.
    The buffer's content is undefined and must not become visible."""
    FAILED = auto()
    """The I/O failed (EIO, the disk is gone); a later read may succeed. Buffer undefined."""


class WriteOutcome(Enum):
    """What became of one chunk of a ``put``."""

    STORED = auto()
    """Written; it survives SIGKILL of this process from now on."""
    PRESENT = auto()
    """Already held: not written twice."""
    REFUSED = auto()
    """Not stored: the limit leaves no room, or the disk failed (full, gone, read-only)."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """A snapshot; all sizes in bytes."""

    chunks: int
    bytes_used: int
    """Bytes taken on the medium, overhead included; never above ``bytes_limit``."""
    bytes_limit: int
    bytes_written: int
    """Since the store was opened."""
    bytes_read: int
    evicted_chunks: int
    corrupt_chunks: int
    failed_reads: int
    failed_writes: int
    healthy: bool
    """False from the first failed write until one succeeds again."""


class ChunkStore(Protocol):
    """See the module's docstring for threads and faults."""

    @property
    def chunk_bytes(self) -> int:
        """Size of every chunk in bytes; buffers passed in have exactly this size."""
        ...

    def contains(self, key: ChunkKey) -> bool:
        """Whether a ``get`` of ``key`` may be expected to succeed."""
        ...

    def get(self, keys: Sequence[ChunkKey], into: Sequence[memoryview]) -> list[ReadOutcome]:
        """Read ``keys[i]`` into the writable, contiguous, ``chunk_bytes``-long ``into[i]``.

        One outcome a key, in order. Never raises for what the disk does.
        """
        ...

    def put(self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview]) -> list[WriteOutcome]:
        """Write ``chunks[i]`` (contiguous, ``chunk_bytes`` long) under ``keys[i]``.

        May evict to stay within the limit; never evicts what this call wrote. One outcome a key.
        Never raises for what the disk does.
        """
        ...

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        """Forget chunks; returns how many were held. They are gone after a restart too."""
        ...

    def flush(self) -> None:
        """Block until everything ``put`` is on the medium even if the machine loses power."""
        ...

    def stats(self) -> StoreStats:
        """Counters and sizes."""
        ...

    def close(self) -> None:
        """Flush and release files and threads. Idempotent; afterwards every ``get`` is MISSING."""
        ...
