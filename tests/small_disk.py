"""A small disk, and SSD stores on it, one after the other."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.ssd import journal
from cache_tiers.ssd.allowance import Allowance, saved_state
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.journal import Header
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles, disk_bytes

CHUNK = 2 * PAGE_BYTES
LIMIT = 200 * CHUNK


@dataclass
class SmallDisk(FaultyFiles):
    """A disk of ``capacity`` bytes, which others use as well. Notes what is written to it, and the
    fewest free bytes there ever were."""

    root: Path = Path()
    capacity: int = 2**40
    others: int = 0
    lowest: int = 2**40
    written: int = 0
    fails_after_write: str | None = None
    """Files with this suffix are written whole, and then the write fails."""

    def free_bytes(self, path: Path) -> int:
        return self.capacity - self.others - disk_bytes(self.root)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        size = super().write(file, data, offset)
        self.written += size
        self._look()
        suffix = Path(f"/proc/self/fd/{file}").readlink().suffix
        if suffix == self.fails_after_write:
            raise OSError(errno.EIO, "after the write")
        return size

    def allocate(self, file: int, size: int) -> None:
        super().allocate(file, size)
        self._look()

    def sync(self, file: int) -> None:
        self._may_fail("sync", errno.EIO, 0)

    def sync_folder(self, path: Path) -> None:
        return

    def _look(self) -> None:
        if self.capacity < 2**40:
            self.lowest = min(self.lowest, self.free_bytes(self.root))


class Bench:
    """Stores on one disk, one after the other."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700)
        self.root = root
        self.disk = SmallDisk(root=root)
        self.now = 1e9
        self.store: SsdStore | None = None

    def open(self, per_day: int | None = None, *, kill: bool = False, **changes: Any) -> SsdStore:
        """Anew, after a close or a kill."""
        if self.store is not None:
            if kill:
                self.store._root.release()
            else:
                self.store.close()
        values = {"chunk_bytes": CHUNK, "bytes_limit": LIMIT, **changes}
        self.store = SsdStore.open(
            SsdConfig(root=self.root, fingerprint="f", **values),
            lambda: self.now,
            files=self.disk,
            make_sealer=self.make_sealer,
            make_allowance=None if per_day is None else lambda: self.make_allowance(per_day),
        )
        return self.store

    def make_sealer(self) -> EncryptedSealer:
        return EncryptedSealer(Keyring.open(self.root / "keys", bytes(32), self.disk))

    def make_allowance(self, per_day: int) -> Allowance:
        path = self.root / "budget"
        budget = WriteBudget(per_day, lambda: self.now, saved_state(path, self.disk))
        return Allowance(path, self.disk, budget)

    def put(self, *numbers: int, session: str = "t/s", size: int = CHUNK) -> list[WriteOutcome]:
        assert self.store is not None
        self.now += 1
        chunks = [memoryview(bytes([number % 251]) * size) for number in numbers]
        return self.store.put([key(number) for number in numbers], chunks, SessionKey(session))

    def journals(self) -> list[tuple[Path, int]]:
        """Every segment's data file, and how many of its bytes its journal knows."""
        found = []
        for path in sorted((self.root / "f").glob("*.journal")):
            data = path.read_bytes()
            header = Header("f", int(path.stem), CHUNK, journal.tenant_in(data) or b"")
            said = journal.replay(data, header)
            assert said is not None
            found.append((path.with_suffix(".segment"), said.pages * PAGE_BYTES))
        return found


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key%d" % number)
