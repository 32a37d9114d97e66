"""One segment: a file of chunks, each beginning on a page, and its journal.

Pages are written before the journal record that names them, and once: what a reader has looked up
never changes under it. The data file is allocated ahead in steps and cut to what is used when the
segment is sealed.
"""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache_tiers.ssd import journal
from cache_tiers.ssd.extent import PAGE_BYTES, page_bytes
from cache_tiers.ssd.files import Files, opened, read_fully, remove_if_there, write_fully
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.journal import Header, Put, Replay
from cache_tiers.types import ChunkKey

MOST_JOURNAL_BYTES = 256 * 2**20
"""More than any segment can need; a larger file is not a journal."""
_NAME = re.compile(r"([0-9]{10})\.(segment|journal)")
MOST_SEGMENTS = 2**32 - 1
"""Numbers of segments are u32 on the medium."""


def id_in_name(name: str) -> int | None:
    """The segment that a file of this name belongs to; None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if 0 < number <= MOST_SEGMENTS else None


def data_path(folder: Path, segment: int) -> Path:
    """The file of a segment's chunks."""
    return folder / f"{segment:010}.segment"


def journal_path(folder: Path, segment: int) -> Path:
    """The file that says what is in a segment."""
    return folder / f"{segment:010}.journal"


@dataclass(slots=True, eq=False)
class Segment:
    """Everything that changes belongs to the store's write lock, ``last_used`` excepted; ``read``
    uses only what does not change. Every method may raise OSError."""

    files: Files
    folder: Path
    header: Header
    capacity: int
    """Pages it may have."""
    mark: Mark
    """Where the journal's next record goes."""
    pages: int = 0
    """The first free page."""
    named: int = 0
    """The first page behind all that the journal has ever named."""
    data_extent: int = 0
    """Bytes that the data file may have: raised before it grows, also when that then fails."""
    journal_extent: int = 0
    chunks: int = 0
    """Put and not deleted: the journal has room kept for as many deletes."""
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
    def tenant(self) -> bytes:
        return self.header.tenant

    @property
    def data_path(self) -> Path:
        return data_path(self.folder, self.id)

    @property
    def journal_path(self) -> Path:
        return journal_path(self.folder, self.id)

    @property
    def bytes_used(self) -> int:
        """Bytes it takes on the medium, room to delete each of its chunks included."""
        deletes = self.chunks * journal.MOST_DELETE_BYTES
        return page_bytes(self.data_extent) + page_bytes(self.journal_extent + deletes)

    @property
    def slack(self) -> int:
        """Bytes that sealing gives back: allocated ahead of what is used, or left by a write that
        failed. None of a segment that cannot be used: nothing is known of it."""
        if not self.capacity:
            return 0
        data = max(0, page_bytes(self.data_extent) - self.named * PAGE_BYTES)
        return data + max(0, self.journal_extent - self.mark.end)

    def growth(self, pages: int, keys: Sequence[ChunkKey], step: int) -> int:
        """By how much ``bytes_used`` grows when chunks of so many pages are appended."""
        data = max(self.data_extent, self._extent_for(pages, step))
        end = max(self.journal_extent, self.mark.end + sum(map(journal.put_bytes, keys)))
        deletes = (self.chunks + len(keys)) * journal.MOST_DELETE_BYTES
        return page_bytes(data) + page_bytes(end + deletes) - self.bytes_used

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

    def allocate(self, pages: int, step: int) -> int:
        """Take so many pages, the file allocated ahead by ``step`` bytes; returns the first. They
        are lost when they are not recorded."""
        wanted = self._extent_for(pages, step)
        if wanted > self.data_extent:
            self.data_extent = wanted
            with opened(self.files, self.data_path, writable=True) as file:
                self.files.allocate(file, wanted)
        first, self.pages = self.pages, self.pages + pages
        return first

    def write(self, page: int, data: Sequence[memoryview], *, direct: bool) -> None:
        """Write whole pages. Any thread: no two write the same."""
        self.dirty = True
        with opened(self.files, self.data_path, writable=True, direct=direct) as file:
            write_fully(self.files, file, data, page * PAGE_BYTES)

    def record(self, records: Sequence[Put]) -> None:
        """Name what was written, by page: data first goes to the medium for good. All or nothing:
        when it raises, none of it is there."""
        with opened(self.files, self.data_path, writable=True) as file:
            self.files.sync(file)
        self._write_journal(*journal.puts(records, self.mark))
        self.chunks += len(records)
        _, last = records[-1]
        self.named = last.page + last.pages

    def forget(self, records: Sequence[Put]) -> None:
        """Record that chunks are deleted."""
        self._write_journal(*journal.deletes(records, self.mark))
        self.chunks -= len(records)

    def read(self, page: int, into: Sequence[memoryview], *, direct: bool) -> int:
        """Read from ``page`` on; returns the bytes read, unchecked. Any thread."""
        with opened(self.files, self.data_path, writable=False, direct=direct) as file:
            return read_fully(self.files, file, into, page * PAGE_BYTES)

    def seal(self) -> None:
        """No chunk is written to it any more: make it safe and give back what is unused. Records
        that could not be written whole go, too: what was refused must not be back after a start."""
        self.capacity = self.pages = self.named
        self._cut_data(self.pages * PAGE_BYTES)
        if self.journal_extent > self.mark.end:
            with opened(self.files, self.journal_path, writable=True) as file:
                self.files.truncate(file, self.mark.end)
            self.journal_extent = self.mark.end
            self.dirty = True
        self.sync()

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
        # The journal first: names of chunks whose pages are gone would be promises.
        remove_if_there(self.files, self.journal_path)
        self.journal_extent = self.chunks = 0
        remove_if_there(self.files, self.data_path)
        self.data_extent = 0

    def load(self, after: tuple[Mark, int] | None, *, repair: bool) -> Replay | None:
        """Read the journal of files that exist already: all of it, or what is behind ``after``
        (mark and first free page, of a snapshot). With ``repair``, cut off what is behind its last
        whole record, and pages that nothing names. Of chunks whose bytes were cut off a read finds
        out, and says that they are corrupt.

        ``data_extent`` and ``journal_extent`` must be the files' sizes. None for what cannot be
        used. Raises StoreUnusable for a newer format.
        """
        room, self.capacity = self.capacity, 0
        if not 0 < self.journal_extent <= MOST_JOURNAL_BYTES:
            return None
        start, pages = (after[0].end, after[1]) if after else (0, 0)
        said: Replay | None = Replay([], [], 0, after[0]) if after else None
        with opened(self.files, self.journal_path, writable=repair) as file:
            # What no snapshot knows yet may never have been synced.
            self.dirty = repair and self.journal_extent > start
            if self.journal_extent > start:
                buffer = bytearray(self.journal_extent - start)
                whole = read_fully(self.files, file, [memoryview(buffer)], start)
                data = bytes(buffer[:whole])
                if after:
                    said = journal.replay_tail(data, self.header, after[0])
                else:
                    tenant = journal.tenant_in(data)
                    if tenant is not None:
                        self.header = Header(
                            self.header.fingerprint, self.id, self.header.chunk_bytes, tenant
                        )
                    said = journal.replay(data, self.header)
            if said is None:
                return None
            if repair and self.journal_extent > said.mark.end:
                self.files.truncate(file, said.mark.end)
                self.journal_extent = said.mark.end
        self.mark, self.pages = said.mark, max(pages, said.pages)
        self.named = self.pages
        if repair and self.pages * PAGE_BYTES <= self.data_extent:
            self.capacity = room
            self._cut_data(self.pages * PAGE_BYTES)
        return said

    def _extent_for(self, pages: int, step: int) -> int:
        used = (self.pages + pages) * PAGE_BYTES
        if used <= self.data_extent:
            return self.data_extent
        ahead = page_bytes(self.data_extent + step)
        return max(used, min(ahead, self.capacity * PAGE_BYTES))

    def _cut_data(self, size: int) -> None:
        if self.data_extent > size:
            with opened(self.files, self.data_path, writable=True) as file:
                self.files.truncate(file, size)
            self.data_extent = size
            self.dirty = True

    def _write_journal(self, data: bytes, behind: Mark) -> None:
        self.journal_extent = max(self.journal_extent, behind.end)
        self.dirty = True
        with opened(self.files, self.journal_path, writable=True) as file:
            if self.files.size(file) < self.mark.end:
                # A record behind a hole would never be found again.
                raise OSError(errno.EIO, "the journal was cut short", str(self.journal_path))
            write_fully(self.files, file, [memoryview(data)], self.mark.end)
        self.mark = behind
