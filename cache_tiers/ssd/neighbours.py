"""What else is under the root: other fingerprints' folders, and files that are not ours.

A segment, a journal and the manifests beside them are known by their names, in a folder right
under the root; nothing else is ever removed, and no symbolic link followed.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from cache_tiers.eviction.policy import Candidate, EvictionPolicy
from cache_tiers.ssd.extent import PAGE_BYTES, page_bytes
from cache_tiers.ssd.files import PROBE, Entry, Files, remove_if_there
from cache_tiers.ssd.segment import id_in_name
from cache_tiers.store import StoreUnusable

_log = logging.getLogger(__name__)

LOCK, KEYRING, BUDGET = "lock", "keys", "budget"
RESERVED = frozenset({LOCK, KEYRING, BUDGET})
"""Files right under the root: no fingerprint has such a name."""
_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MANIFESTS = "manifests"
"""A session manifest may live in the store's folder under this name: it goes with the folder."""
SNAPSHOT = "snapshot"
"""The index of the folder's segments, written now and then for a fast start."""
_OURS = frozenset(name + end for name in (MANIFESTS, SNAPSHOT) for end in ("", ".new")) | {PROBE}
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


class Neighbours:
    """Everything under the root but the store's own folder. Every method may raise OSError."""

    def __init__(self, files: Files, root: Path, own: Path) -> None:
        self._files = files
        self._root = root
        self._own = own
        self._found: list[Neighbour] = []
        self._foreign_bytes = 0
        self._file_bytes = 0

    def __bool__(self) -> bool:
        """Whether there is a folder that may be evicted."""
        return bool(self._found)

    @property
    def bytes(self) -> int:
        """Taken by other fingerprints' folders and by what is not ours."""
        return (
            self._foreign_bytes
            + self._file_bytes
            + sum(neighbour.bytes for neighbour in self._found)
        )

    def survey(self) -> None:
        """Look at the folders; ``look`` is to follow. Raises StoreUnusable when so much is not ours
        that it looks like someone's files, or the store's own folder is none."""
        self._found = []
        foreign: list[tuple[Path, Entry]] = []
        for entry in self._files.entries(self._root):
            path = self._root / entry.name
            if path == self._own and not entry.is_folder:
                raise StoreUnusable(f"{path} is not a folder: remove it")
            if path == self._own or not entry.is_folder:
                continue
            content = self._files.entries(path)
            ours = [e for e in content if e.is_file and _is_ours(e.name)]
            if len(ours) == len(content) or any(id_in_name(e.name) is not None for e in ours):
                size = page_bytes(entry.bytes) + sum(page_bytes(e.bytes) for e in ours)
                used = max((e.modified_at for e in ours), default=0.0)
                names = tuple(e.name for e in ours)
                self._found.append(Neighbour(path, names, size, used))
                foreign += [(path / e.name, e) for e in content if e not in ours]
            else:
                foreign.append((path, entry))
        self._foreign_bytes = _measure(self._files, self._root, foreign)

    def look(self) -> None:
        """Measure the files right under the root again: some of them grow."""
        entries = self._files.entries(self._root)
        self._file_bytes = sum(page_bytes(e.bytes) for e in entries if not e.is_folder)

    def evict(self, policy: EvictionPolicy) -> None:
        """Remove the one that the policy names; what cannot be removed counts as not ours from
        then on."""
        choice = policy.choose(
            Candidate(i, neighbour.bytes, neighbour.last_used, 0)
            for i, neighbour in enumerate(self._found)
        )
        assert choice is not None
        neighbour = self._found.pop(choice.candidate.id)
        try:
            neighbour.remove(self._files)
        except OSError as error:
            self._foreign_bytes += neighbour.bytes
            _log.warning("An old folder of the SSD store cannot be removed: %s", error)


def is_fingerprint(name: str) -> bool:
    """Whether a fingerprint's folder may have this name."""
    return _FINGERPRINT.fullmatch(name) is not None and name not in RESERVED


def bytes_beside(files: Files, folder: Path) -> int:
    """Bytes taken by what is neither segment nor journal in a store's own folder. May raise as
    ``Neighbours.survey``."""
    strangers = [e for e in files.entries(folder) if not e.is_file or id_in_name(e.name) is None]
    return _measure(files, folder, [(folder / e.name, e) for e in strangers])


def _is_ours(name: str) -> bool:
    return id_in_name(name) is not None or name in _OURS


def _measure(files: Files, root: Path, left: list[tuple[Path, Entry]]) -> int:
    size = 0
    for _ in range(_MAX_FOREIGN_ENTRIES):
        if not left:
            return size
        path, entry = left.pop()
        size += page_bytes(entry.bytes)
        if entry.is_folder:
            left += [(path / inner.name, inner) for inner in files.entries(path)]
    raise StoreUnusable(
        f"{root} holds more than {_MAX_FOREIGN_ENTRIES} files that are not the store's: "
        "give the store a folder of its own"
    )


def folder_bytes(segments: int) -> int:
    """What the root and a folder of so many segments take themselves, lock file included."""
    return PAGE_BYTES * (3 + segments // 32)
