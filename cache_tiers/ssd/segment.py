"""One segment: a file of chunks back to back, and its journal.

A chunk is written before the record that names it, and a slot is written once: what a reader has
looked up never changes under it. Chunks are not padded: the KV of whole blocks is a multiple of
the page size by itself.
"""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from cache_tiers.ssd import journal
from cache_tiers.ssd.files import Files, opened, read_fully, remove_if_there, write_fully
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.journal import Header, Put
from cache_tiers.types import ChunkKey

PAGE_BYTES = 4096
_MAX_JOURNAL_BYTES = 256 * 2**20
"""More than any segment can need; a larger file is not a journal."""
_NAME = re.compile(r"(\d{10})\.(segment|journal)")


def pages(size: int) -> int:
    """``size`` rounded up to whole pages: what a file of it takes on the medium."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def id_in_name(name: str) -> int | None:
    """The segment that a file of this name belongs to; None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(slots=True, eq=False)
class Segment:
    """``live`` and ``last_used`` belong to the index's lock, all else that changes to the store's
    write lock; ``read`` uses only what does not change. Every method may raise OSError."""

    files: Files
    folder: Path
    header: Header
    capacity: int
    """Slots it may have."""
    mark: Mark
    """Where the journal's next record goes."""
    slots: int = 0
    """Used slots, deleted ones included."""
    data_extent: int = 0
    """Bytes that the data file may have: raised before a write, also one that then fails."""
    journal_extent: int = 0
    live: dict[int, ChunkKey] = field(default_factory=dict)
    """The chunk in each slot that the index knows."""
    last_used: float = 0.0
    """Seconds of the store's clock."""
    dirty: bool = False
    """Written to since it was last synced."""
    stamped: float = 0.0
    """The ``last_used`` that a restart would find."""

    @classmethod
    def unborn(cls, files: Files, folder: Path, header: Header, capacity: int) -> "Segment":
        """A segment that has no files yet."""
        _, mark = journal.begin(header)
        return cls(files, folder, header, capacity, mark)

    @property
    def id(self) -> int:
        return self.header.segment

    @property
    def data_path(self) -> Path:
        return self.folder / f"{self.id:010}.segment"

    @property
    def journal_path(self) -> Path:
        return self.folder / f"{self.id:010}.journal"

    @property
    def bytes_used(self) -> int:
        """Bytes it takes on the medium, room to delete each of its chunks included."""
        deletes = self.slots * journal.DELETE_BYTES
        return pages(self.data_extent) + pages(self.journal_extent + deletes)

    def bytes_used_with(self, keys: Sequence[ChunkKey]) -> int:
        """What ``bytes_used`` would be with these chunks appended."""
        slots = self.slots + len(keys)
        data = max(self.data_extent, slots * self.header.chunk_bytes)
        end = self.mark.end + sum(map(journal.put_bytes, keys))
        deletes = slots * journal.DELETE_BYTES
        return pages(data) + pages(max(self.journal_extent, end) + deletes)

    def create(self) -> None:
        """Make both files, which must not exist."""
        self.files.close(self.files.create(self.data_path))
        data, _ = journal.begin(self.header)
        self.journal_extent = len(data)
        self.dirty = True
        file = self.files.create(self.journal_path)
        try:
            write_fully(self.files, file, [memoryview(data)], 0)
        finally:
            self.files.close(file)

    def append(self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview]) -> list[Put]:
        """Write chunks into the next slots, then their records. All or nothing: when it raises,
        none of them is there."""
        size = self.header.chunk_bytes
        start = self.slots * size
        records = [
            Put(key, self.slots + i, xxhash.xxh3_128_digest(chunk))
            for i, (key, chunk) in enumerate(zip(keys, chunks, strict=True))
        ]
        self.data_extent = max(self.data_extent, start + len(chunks) * size)
        self.dirty = True
        with opened(self.files, self.data_path, writable=True) as file:
            write_fully(self.files, file, chunks, start)
        self._write_journal(*journal.puts(records, self.mark))
        self.slots += len(records)
        return records

    def forget(self, slots: Sequence[int]) -> None:
        """Record that the chunks in ``slots`` are deleted."""
        self._write_journal(*journal.deletes(slots, self.mark))

    def read(self, slot: int, into: Sequence[memoryview]) -> int:
        """Read neighbouring slots from ``slot`` on; returns the bytes read, unchecked."""
        with opened(self.files, self.data_path, writable=False) as file:
            return read_fully(self.files, file, into, slot * self.header.chunk_bytes)

    def sync(self) -> None:
        """Return when everything written would survive a loss of power; ``last_used`` is kept
        as the journal's modification time."""
        if self.dirty:
            for path in (self.data_path, self.journal_path):
                with opened(self.files, path, writable=True) as file:
                    self.files.sync(file)
            self.dirty = False
        if self.stamped != self.last_used:
            self.stamped = self.last_used
            self.files.set_modified(self.journal_path, self.stamped)

    def remove(self) -> None:
        """Remove both files; may be called again after a failure."""
        remove_if_there(self.files, self.data_path)
        self.data_extent = 0
        remove_if_there(self.files, self.journal_path)

    def load(self) -> list[Put]:
        """Read the journal of files that exist already, cut off what is behind its last whole
        record, and return the chunks that it names. Of those whose bytes were cut off a read finds
        out, and says that they are corrupt.

        ``data_extent`` and ``journal_extent`` must be the files' sizes. What cannot be used stays
        as it is and holds no chunk. Raises StoreUnusable for a newer format.
        """
        room, self.capacity = self.capacity, 0
        if not 0 < self.journal_extent <= _MAX_JOURNAL_BYTES:
            return []
        buffer = bytearray(self.journal_extent)
        with opened(self.files, self.journal_path, writable=True) as file:
            whole = read_fully(self.files, file, [memoryview(buffer)], 0)
            said = journal.replay(bytes(buffer[:whole]), self.header)
            if said is None:
                return []
            if self.journal_extent > said.mark.end:
                self.files.truncate(file, said.mark.end)
                self.journal_extent = said.mark.end
        self.mark, self.slots = said.mark, said.slots
        held = self.data_extent // self.header.chunk_bytes
        if said.slots <= held:
            self.capacity = room
            self._cut_data(said.slots * self.header.chunk_bytes)
        return list(said.puts.values())

    def _cut_data(self, size: int) -> None:
        if self.data_extent > size:
            with opened(self.files, self.data_path, writable=True) as file:
                self.files.truncate(file, size)
            self.data_extent = size

    def _write_journal(self, data: bytes, behind: Mark) -> None:
        self.journal_extent = max(self.journal_extent, behind.end)
        self.dirty = True
        with opened(self.files, self.journal_path, writable=True) as file:
            if self.files.size(file) < self.mark.end:
                # A record behind a hole would never be found again.
                raise OSError(errno.EIO, "the journal was cut short", str(self.journal_path))
            write_fully(self.files, file, [memoryview(data)], self.mark.end)
        self.mark = behind
