"""The contract of a chunk store: the tier below DRAM.

A store maps ``ChunkKey`` to bytes of one fixed size, within one fingerprint. It is a cache: every
method may forget, none may lie. A fault is a miss (``ReadOutcome``), never an exception on the
read path and never a wrong byte.

Who calls what, on which thread:

====================  =======================  ==============================================
method                thread                   may it block on I/O?
====================  =======================  ==============================================
``contains``          scheduler thread         no: memory only, at most a short lock
``stats``             scheduler thread         no
``read``              scheduler thread         no: the store's own threads read
``get`` / ``put``     I/O threads, concurrent  yes
``delete``, ``shred``  an I/O thread           yes
``rank``              an I/O thread            no
``expect``, ``torn``  scheduler thread         no: memory only
``take_evicted_pins``  scheduler thread        no: memory only
``flush``, ``close``  an I/O thread            yes
====================  =======================  ==============================================

Errors::

    StoreError            the root; only constructors raise it
    └── StoreUnusable     the folder cannot be used: not a folder, no permission, foreign format
        └── StoreInUse    another process has it open: it may be free in a moment
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.eviction.expectation import MakeExpectation
from cache_tiers.types import ChunkKey, SessionKey, Standing


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
    LATE = auto()
    """The deadline passed first. The buffer is still the store's: see ``Reading.released``."""


class WriteOutcome(Enum):
    """What became of one chunk of a ``put``."""

    STORED = auto()
    """Written; it survives SIGKILL of this process from now on, and after ``flush`` a loss of
    power."""
    PRESENT = auto()
    """Already held: not written twice."""
    REFUSED = auto()
    """Not stored: the limit leaves no room, the daily write budget is spent, or the disk failed
    (full, gone, read-only, hung)."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """A snapshot; all sizes in bytes."""

    chunks: int
    bytes_used: int
    """Bytes taken on the medium, overhead included; never above ``bytes_limit``."""
    bytes_limit: int
    bytes_written: int
    """Of chunks, since the store was opened."""
    bytes_read: int
    device_bytes_written: int
    """All that went to the medium since then: chunks, their journals, copies by compaction."""
    evicted_chunks: int
    corrupt_chunks: int
    failed_reads: int
    failed_writes: int
    healthy: bool
    """False from the first failed write until one succeeds again."""
    over_budget_chunks: int = 0
    """Refused because the daily write budget was spent."""
    late_reads: int = 0
    """Chunks that did not come before their deadline."""
    chunks_read: int = 0
    read_busy_s: float = 0.0
    """Seconds during which any transfer from the medium was asked for and not over."""


class Reading(Protocol):
    """A ``read`` under way. Any thread."""

    def outcomes(self) -> list[ReadOutcome] | None:
        """One a key, once all are known; from the deadline on, what is not read by then is LATE.
        None before. What is LATE stays so."""
        ...

    @property
    def released(self) -> bool:
        """No thread of the store touches the buffers any more. Until then they must not be used
        for anything else."""
        ...


class ChunkStore(Protocol):
    """See the module's docstring for threads and faults."""

    @property
    def chunk_bytes(self) -> int:
        """Size of every chunk in bytes; buffers passed in have exactly this size."""
        ...

    @property
    def budget(self) -> WriteBudget | None:
        """What may be written today; None when there is no such limit."""
        ...

    def contains(self, key: ChunkKey) -> bool:
        """Whether a ``get`` of ``key`` may be expected to succeed."""
        ...

    def get(self, keys: Sequence[ChunkKey], into: Sequence[memoryview]) -> list[ReadOutcome]:
        """Read ``keys[i]`` into the writable, contiguous, ``chunk_bytes``-long ``into[i]``.

        One outcome a key, in order. Never raises for what the disk does.
        """
        ...

    def read(
        self, keys: Sequence[ChunkKey], into: Sequence[memoryview], deadline_s: float
    ) -> Reading:
        """As ``get``, without waiting: at most ``deadline_s`` from now the outcomes are known."""
        ...

    def put(
        self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview], owner: SessionKey
    ) -> list[WriteOutcome]:
        """Write ``chunks[i]`` (contiguous, ``chunk_bytes`` long) under ``keys[i]`` for the session
        ``owner``, all of whose chunks ``shred`` makes unreadable.

        May evict to stay within the limit; never evicts what this call wrote. One outcome a key.
        Never raises for what the disk does.
        """
        ...

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        """Forget chunks; returns how many were held. They are gone after a restart too."""
        ...

    def shred(self, session: SessionKey, keep: Iterable[ChunkKey] = ()) -> bool:
        """Make what was put for ``session`` unreadable for ever, but for ``keep``, which other
        sessions of its tenant hold. Durable on return; raises OSError when it could not be made
        so. Whether there was a key to destroy."""
        ...

    def rank(self, keys: Sequence[ChunkKey], standing: Standing) -> None:
        """Say what chunks are worth; those that are not held are passed over. A chunk is ORDINARY
        until it is ranked, and again after a restart. Where room is needed what is SUPERSEDED goes
        first; what is PINNED goes when nothing else is left to go."""
        ...

    def expect(self, expected: MakeExpectation) -> None:
        """What sessions are expected to ask for, instead of what was told before; until something
        was told, nothing is known. ``expected`` is called when room is needed, at most once, on the
        thread that needs it. From then on chunks behind a hole in their chain count as SUPERSEDED,
        and among what is ORDINARY goes first what is worth the least for the room that it takes,
        the longest unused among equals."""
        ...

    @property
    def torn(self) -> tuple[SessionKey, ...]:
        """Of the sessions that were expected, those with chunks behind a hole when room was last
        needed: of them it matters what tiers above have (``Stake.above``)."""
        ...

    def take_evicted_pins(self) -> list[ChunkKey]:
        """Chunks that had to go although they were PINNED, since the last call."""
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
