"""What is under a store's root, as its files say: needs no lock and no key, and may be asked beside
a server that is changing it.

Every function may raise OSError, and StoreUnusable for what a newer version wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache_tiers.ssd import journal
from cache_tiers.ssd.files import Entry, Files, opened, read_fully
from cache_tiers.ssd.frames import FRAME_BYTES, Mark, split
from cache_tiers.ssd.journal import TENANT_TAG_BYTES, Header, Put
from cache_tiers.ssd.neighbours import MANIFESTS, SNAPSHOT, is_fingerprint
from cache_tiers.ssd.segment import MOST_JOURNAL_BYTES, id_in_name, journal_path

_MOST_RECORD_BYTES = 1024
_SEARCH_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Holding:
    """The folder of one fingerprint."""

    path: Path
    segments: tuple[int, ...]
    """Their numbers, ascending."""
    bytes: int
    """On the medium, room allocated ahead included."""
    data_bytes: int
    """Of the segments alone."""
    last_used: float
    """Seconds since the epoch."""
    chunk_bytes: int | None
    """None for a folder without a segment that says it."""

    @property
    def fingerprint(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Listing:
    """What one journal says is in its segment."""

    header: Header
    puts: Sequence[Put]
    """By page."""
    pages: int
    """The first page behind everything that was ever put."""
    damaged: bool
    """There is more in the journal than can be understood, or nothing of it can."""


def holdings(root: Path, files: Files) -> list[Holding]:
    """Every fingerprint's folder, the one used last first."""
    found = []
    for entry in _entries(root, files):
        if entry.is_folder and is_fingerprint(entry.name):
            holding = _holding(root / entry.name, files)
            if holding is not None:
                found.append(holding)
    return sorted(found, key=lambda holding: holding.last_used, reverse=True)


def read_journal(folder: Path, segment: int, files: Files) -> Listing | None:
    """None for a segment that is gone, or only just being made."""
    data = _read(journal_path(folder, segment), files)
    if not data:
        return None
    header = Header(
        folder.name,
        segment,
        journal.chunk_bytes_in(data) or 0,
        journal.tenant_in(data) or bytes(TENANT_TAG_BYTES),
    )
    said = journal.replay(data, header)
    if said is None:
        return Listing(header, (), 0, damaged=True)
    return Listing(header, said.puts, said.pages, _goes_on(data, said.mark.end))


def _entries(path: Path, files: Files) -> list[Entry]:
    try:
        return files.entries(path)
    except FileNotFoundError:
        return []


def _holding(path: Path, files: Files) -> Holding | None:
    """None for a folder that is not the store's."""
    entries = [entry for entry in _entries(path, files) if entry.is_file]
    segments = {number for e in entries if (number := id_in_name(e.name)) is not None}
    beside = {
        entry.name.removesuffix(".new") for entry in entries if id_in_name(entry.name) is None
    }
    if not segments and not beside <= {MANIFESTS, SNAPSHOT}:
        return None
    return Holding(
        path,
        tuple(sorted(segments)),
        sum(entry.disk_bytes for entry in entries),
        sum(entry.disk_bytes for entry in entries if entry.name.endswith(".segment")),
        max((entry.modified_at for entry in entries), default=0.0),
        _chunk_bytes(path, sorted(segments), files),
    )


def _chunk_bytes(folder: Path, segments: Sequence[int], files: Files) -> int | None:
    for segment in reversed(segments):
        size = journal.chunk_bytes_in(_read(journal_path(folder, segment), files))
        if size is not None:
            return size
    return None


def _read(path: Path, files: Files) -> bytes:
    """The file's content; nothing of one that is gone."""
    try:
        with opened(files, path, writable=False) as file:
            buffer = bytearray(min(files.size(file), MOST_JOURNAL_BYTES))
            size = read_fully(files, file, [memoryview(buffer)], 0)
    except FileNotFoundError:
        return b""
    return bytes(buffer[:size])


def _goes_on(data: bytes, end: int) -> bool:
    """Whether a whole record comes behind the first that is not whole. A write that was cut short
    leaves none: then something was damaged that had been written."""
    view = memoryview(data)
    for at in range(end, min(len(data) - FRAME_BYTES, end + _SEARCH_BYTES)):
        length = int.from_bytes(view[at : at + 4], "little")
        if 0 < length <= _MOST_RECORD_BYTES:
            chain = int.from_bytes(view[at + 4 : at + FRAME_BYTES], "little")
            if next(split(view, Mark(at + FRAME_BYTES + length, chain)), None):
                return True
    return False
