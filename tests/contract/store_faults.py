"""A disk that misbehaves, in place of ``OsFiles``."""

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache_tiers.ssd.files import Entry, OsFiles


@dataclass
class FaultyFiles(OsFiles):
    """Each fault has a probability; ``broken`` makes every call of a kind fail with an errno."""

    short: float = 0.0
    eio: float = 0.0
    enospc: float = 0.0
    flip: float = 0.0
    seed: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    writes: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def _may_fail(self, kind: str, code: int, chance: float) -> None:
        if kind in self.broken:
            raise OSError(self.broken[kind], "broken")
        if self._random.random() < chance:
            raise OSError(code, "injected")

    def make_folder(self, path: Path) -> None:
        self._may_fail("folder", errno.EACCES, 0)
        super().make_folder(path)

    def entries(self, path: Path) -> list[Entry]:
        self._may_fail("entries", errno.EIO, 0)
        return super().entries(path)

    def create(self, path: Path) -> int:
        self._may_fail("create", errno.ENOSPC, self.enospc)
        return super().create(path)

    def open(self, path: Path, *, writable: bool) -> int:
        self._may_fail("open", errno.EIO, 0)
        return super().open(path, writable=writable)

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        self._may_fail("read", errno.EIO, self.eio)
        if self._random.random() < self.short:
            into = [into[0][: max(1, into[0].nbytes // 2)]]
        size = super().read(file, into, offset)
        if size and self._random.random() < self.flip:
            into[0][0] ^= 1
        return size

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        self._may_fail("write", errno.EIO, self.eio)
        self.writes += 1
        if self._random.random() < self.enospc:
            super().write(file, [data[0][: data[0].nbytes // 2]], offset)
            raise OSError(errno.ENOSPC, "injected")
        if self._random.random() < self.short:
            data = [data[0][: max(1, data[0].nbytes // 2)]]
        return super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self._may_fail("sync", errno.EIO, self.eio)
        super().sync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._may_fail("replace", errno.EIO, 0)
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self._may_fail("remove", errno.EACCES, 0)
        super().remove(path)


def disk_bytes(root: Path) -> int:
    """What ``root`` takes: apparent or allocated size, whichever is larger, of everything."""
    sizes = [path.lstat() for path in [root, *root.rglob("*")]]
    return sum(max(status.st_size, status.st_blocks * 512) for status in sizes)
