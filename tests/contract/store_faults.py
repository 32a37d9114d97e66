"""A disk that misbehaves, in place of ``OsFiles``."""

import errno
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import Entry, OsFiles

_LONGEST_HANG_S = 60.0
"""A hung disk gives up at last: so does a test that forgot to let it go."""


@dataclass
class FaultyFiles(OsFiles):
    """Each fault has a probability; ``broken`` makes every call of a kind fail with an errno."""

    short: float = 0.0
    eio: float = 0.0
    enospc: float = 0.0
    flip: float = 0.0
    anywhere: float = 0.0
    """Of EIO from any call that can fail."""
    seed: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    reads: int = 0
    free: int | None = None
    """What ``free_bytes`` says; None for what is true."""
    hang_reads: threading.Event | None = None
    """Reads wait for it."""
    hang_writes: threading.Event | None = None
    """Writes, allocations and syncs wait for it."""
    hung: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once by each call that begins to wait."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._direct: set[int] = set()
        """Open files that take whole pages only, so that a transfer ends after whole pages too."""

    def _may_fail(self, kind: str, code: int, chance: float) -> None:
        if kind in self.broken:
            raise OSError(self.broken[kind], "broken")
        if self._random.random() < chance:
            raise OSError(code, "injected")
        if self._random.random() < self.anywhere:
            raise OSError(errno.EIO, "injected")

    def _may_hang(self, until: threading.Event | None) -> None:
        if until is None:
            return
        self.hung.release()
        if not until.wait(_LONGEST_HANG_S):
            raise OSError(errno.EIO, "hung for too long")

    def make_folder(self, path: Path) -> None:
        self._may_fail("folder", errno.EACCES, 0)
        super().make_folder(path)

    def entries(self, path: Path) -> list[Entry]:
        self._may_fail("entries", errno.EIO, 0)
        return super().entries(path)

    def create(self, path: Path) -> int:
        self._may_fail("create", errno.ENOSPC, self.enospc)
        return super().create(path)

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        self._may_fail("open", errno.EIO, 0)
        if direct:
            self._may_fail("direct", errno.EINVAL, 0)
        file = super().open(path, writable=writable, direct=direct)
        if direct:
            self._direct.add(file)
        return file

    def close(self, file: int) -> None:
        self._direct.discard(file)
        super().close(file)

    def _half(self, file: int, view: memoryview) -> memoryview:
        """Some of it, at least what a transfer must have."""
        least = PAGE_BYTES if file in self._direct else 1
        return view[: max(least, view.nbytes // 2 // least * least)]

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        self.reads += 1
        self._may_hang(self.hang_reads)
        self._may_fail("read", errno.EIO, self.eio)
        if self._random.random() < self.short:
            into = [self._half(file, into[0])]
        size = super().read(file, into, offset)
        if size and self._random.random() < self.flip:
            into[0][0] ^= 1
        return size

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        self._may_hang(self.hang_writes)
        self._may_fail("write", errno.EIO, self.eio)
        self.writes += 1
        if self._random.random() < self.enospc:
            super().write(file, [self._half(file, data[0])], offset)
            raise OSError(errno.ENOSPC, "injected")
        if self._random.random() < self.short:
            data = [self._half(file, data[0])]
        return super().write(file, data, offset)

    def allocate(self, file: int, size: int) -> None:
        self._may_hang(self.hang_writes)
        self._may_fail("allocate", errno.ENOSPC, self.enospc)
        super().allocate(file, size)

    def sync(self, file: int) -> None:
        self._may_hang(self.hang_writes)
        self._may_fail("sync", errno.EIO, self.eio)
        super().sync(file)

    def sync_folder(self, path: Path) -> None:
        self._may_hang(self.hang_writes)
        self._may_fail("sync_folder", errno.EIO, 0)
        super().sync_folder(path)

    def replace(self, source: Path, target: Path) -> None:
        self._may_fail("replace", errno.EIO, 0)
        super().replace(source, target)

    def truncate(self, file: int, size: int) -> None:
        self._may_fail("truncate", errno.EIO, 0)
        super().truncate(file, size)

    def set_modified(self, path: Path, at: float) -> None:
        self._may_fail("set_modified", errno.EIO, 0)
        super().set_modified(path, at)

    def remove(self, path: Path) -> None:
        self._may_fail("remove", errno.EACCES, 0)
        super().remove(path)

    def free_bytes(self, path: Path) -> int:
        self._may_fail("free", errno.EIO, 0)
        return super().free_bytes(path) if self.free is None else self.free


def open_below(root: Path) -> int:
    """How many files below ``root`` this process has open."""
    files = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return sum(Path(file).is_relative_to(root.resolve()) for file in files)


def disk_bytes(root: Path) -> int:
    """What ``root`` takes: apparent or allocated size, whichever is larger, of everything."""
    sizes = [path.lstat() for path in [root, *root.rglob("*")]]
    return sum(max(status.st_size, status.st_blocks * 512) for status in sizes)
