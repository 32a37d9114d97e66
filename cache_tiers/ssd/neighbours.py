"""What else is under the root: other fingerprints' folders, and files that are not ours.

A segment, a journal and the manifests beside them are known by their names, in a folder right
under the root; nothing else is ever removed, and no symbolic link followed.
"""

from dataclasses import dataclass
from pathlib import Path

from cache_tiers.ssd.files import Entry, Files, remove_if_there
from cache_tiers.ssd.segment import PAGE_BYTES, id_in_name, pages
from cache_tiers.store import StoreUnusable

LOCK = "lock"
MANIFESTS = "manifests"
"""A session manifest may live in the store's folder under this name: it goes with the folder."""
_MAX_FOREIGN_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another fingerprint's folder: of no use to this engine, and the first to go."""

    path: Path
    names: tuple[str, ...]
    """Our files in it."""
    bytes: int
    last_used: float
    """Seconds since the epoch."""

    def remove(self, files: Files) -> None:
        """Remove our files and, when nothing else is in it, the folder. May raise OSError."""
        for name in self.names:
            remove_if_there(files, self.path / name)
        if not files.entries(self.path):
            files.remove_folder(self.path)


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything under the root but the store's own folder."""

    neighbours: tuple[Neighbour, ...]
    foreign_bytes: int
    """Taken by what is not ours."""


def survey(files: Files, root: Path, own: str) -> Survey:
    """Look at all of ``root`` but ``own``. May raise OSError; raises StoreUnusable when so much
    of it is not ours that it looks like someone's files, or ``own`` is not a folder."""
    neighbours = []
    foreign: list[tuple[Path, Entry]] = []
    for entry in files.entries(root):
        path = root / entry.name
        if entry.name == own and not entry.is_folder:
            raise StoreUnusable(f"{path} is not a folder: remove it")
        if entry.name in (own, LOCK):
            continue
        if not entry.is_folder:
            foreign.append((path, entry))
            continue
        content = files.entries(path)
        ours = [e for e in content if e.is_file and _is_ours(e.name)]
        if len(ours) == len(content) or any(id_in_name(e.name) is not None for e in ours):
            size = pages(entry.bytes) + sum(pages(e.bytes) for e in ours)
            used = max((e.modified_at for e in ours), default=0.0)
            neighbours.append(Neighbour(path, tuple(e.name for e in ours), size, used))
            foreign += [(path / e.name, e) for e in content if e not in ours]
        else:
            foreign.append((path, entry))
    return Survey(tuple(neighbours), _measure(files, root, foreign))


def bytes_beside(files: Files, folder: Path) -> int:
    """Bytes taken by what is neither segment nor journal in a store's own folder. May raise as
    ``survey``."""
    strangers = [e for e in files.entries(folder) if not e.is_file or id_in_name(e.name) is None]
    return _measure(files, folder, [(folder / e.name, e) for e in strangers])


def _is_ours(name: str) -> bool:
    return id_in_name(name) is not None or name in (MANIFESTS, f"{MANIFESTS}.new")


def _measure(files: Files, root: Path, left: list[tuple[Path, Entry]]) -> int:
    size = 0
    for _ in range(_MAX_FOREIGN_ENTRIES):
        if not left:
            return size
        path, entry = left.pop()
        size += pages(entry.bytes)
        if entry.is_folder:
            left += [(path / inner.name, inner) for inner in files.entries(path)]
    raise StoreUnusable(
        f"{root} holds more than {_MAX_FOREIGN_ENTRIES} files that are not the store's: "
        "give the store a folder of its own"
    )


def folder_bytes(segments: int) -> int:
    """What the root and a folder of so many segments take themselves, lock file included."""
    return PAGE_BYTES * (3 + segments // 32)
