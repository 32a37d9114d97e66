"""What of files and folders is durable, and what a loss of power may leave of the rest.

The model. A file is sectors of 512 bytes and a size; a sector reaches the medium whole or not at
all. Syncing a file makes its present content and size durable, and nothing else: its name is
durable only after the folder that holds it was synced. Of everything since, a loss of power keeps
an arbitrary part: each sector has any of the contents that it had since the last sync, the size is
any of those that it was, independently, and each change of a name happened or did not. A rename is
one change; changes of the same name keep their order.
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR_BYTES = 512
_ZEROS = bytes(SECTOR_BYTES)
_SHARES = (0.0, 0.5, 0.9, 1.0)
"""How much of what is at risk survives: nothing and everything show the most faults."""

Pick = Callable[[Sequence[Any]], Any]
"""Which of the states that something had, the durable one first, the newest last, it has after."""


@dataclass(eq=False)
class SectorFile:
    """Content and size of one file, whatever its name."""

    durable: dict[int, bytes] = field(default_factory=dict)
    """By number of the sector; one that is absent is zeros."""
    unsynced: dict[int, list[bytes]] = field(default_factory=dict)
    """Every content since the last sync, the newest last."""
    sizes: list[int] = field(default_factory=lambda: [0])
    """The durable one, then every one since."""
    modified_at: float | None = None

    def states(self, sector: int) -> list[bytes]:
        """Contents that the sector may have, the durable one first, the present one last."""
        return [self.durable.get(sector, _ZEROS), *self.unsynced.get(sector, ())]

    @property
    def sectors(self) -> set[int]:
        return self.durable.keys() | self.unsynced.keys()

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            begin = sector * SECTOR_BYTES
            first, last = max(offset, begin), min(end, begin + SECTOR_BYTES)
            old = self.states(sector)[-1]
            new = old[: first - begin] + data[first - offset : last - offset] + old[last - begin :]
            self.unsynced.setdefault(sector, []).append(new)
        self.grow(end)

    def grow(self, size: int) -> None:
        self.sizes.append(max(size, self.sizes[-1]))

    def truncate(self, size: int) -> None:
        for sector in self.sectors:
            left = max(0, size - sector * SECTOR_BYTES)
            if left < SECTOR_BYTES:
                cut = self.states(sector)[-1][:left].ljust(SECTOR_BYTES, b"\0")
                self.unsynced.setdefault(sector, []).append(cut)
        self.sizes.append(size)

    def sync(self) -> None:
        for sector, states in self.unsynced.items():
            self.durable[sector] = states[-1]
        self.unsynced.clear()
        del self.sizes[:-1]


@dataclass(eq=False)
class Folder:
    """``names`` as processes see them, ``durable`` as a loss of power leaves them at least."""

    names: "dict[str, SectorFile | Folder]" = field(default_factory=dict)
    durable: "dict[str, SectorFile | Folder]" = field(default_factory=dict)


@dataclass(eq=False)
class Change:
    """Names that change together: folder, name, and what it names then."""

    names: tuple[tuple[Folder, str, SectorFile | Folder | None], ...]

    @property
    def places(self) -> set[tuple[Folder, str]]:
        return {(folder, name) for folder, name, _ in self.names}


def set_name(names: dict[str, Any], name: str, node: SectorFile | Folder | None) -> None:
    """Let ``name`` be that of ``node``, or of nothing."""
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def with_earlier(changes: Sequence[Change], kept: Sequence[Change]) -> list[Change]:
    """``kept`` and every earlier change of the same names, in order."""
    needed: set[tuple[Folder, str]] = set()
    found = []
    for change in reversed(changes):
        if change in kept or change.places & needed:
            needed |= change.places
            found.append(change)
    return found[::-1]


def newest(states: Sequence[Any]) -> Any:
    """The ``Pick`` that loses nothing."""
    return states[-1]


def some_of(chance: random.Random) -> Pick:
    """A ``Pick`` that loses a share of what is not durable."""
    share = chance.choice(_SHARES)

    def pick(states: Sequence[Any]) -> Any:
        older = states[:-1]
        return chance.choice(older) if older and chance.random() >= share else states[-1]

    return pick


def load(path: Path) -> Folder:
    """What is in a folder, all of it durable."""
    folder = Folder()
    for inner in sorted(path.iterdir()):
        folder.names[inner.name] = load(inner) if inner.is_dir() else _load_file(inner)
    folder.durable = dict(folder.names)
    return folder


def _load_file(path: Path) -> SectorFile:
    file = SectorFile()
    file.write(path.read_bytes(), 0)
    file.sync()
    return file


def write_image(
    target: Path, top: Folder, kept: Iterable[Change], picks: Callable[[], Pick]
) -> None:
    """Fill ``target`` with what is durable and the changes ``kept``. ``picks`` gives each file's
    size, its sectors and its time a ``Pick``."""
    names: dict[Folder, dict[str, SectorFile | Folder]] = {}
    for change in kept:
        for folder, name, node in change.names:
            set_name(names.setdefault(folder, dict(folder.durable)), name, node)

    def fill(path: Path, folder: Folder) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, node in names.get(folder, folder.durable).items():
            if isinstance(node, Folder):
                fill(path / name, node)
            else:
                _write_file(path / name, node, picks(), picks(), picks())

    fill(target, top)


def _write_file(path: Path, file: SectorFile, size: Pick, content: Pick, time: Pick) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for sector in sorted(file.sectors):
            os.pwrite(descriptor, content(file.states(sector)), sector * SECTOR_BYTES)
        os.ftruncate(descriptor, size(file.sizes))
    finally:
        os.close(descriptor)
    modified_at = time([None, file.modified_at])
    if modified_at is not None:
        os.utime(path, (modified_at, modified_at))
