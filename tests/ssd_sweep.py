"""An SSD store through several lives, looked at before every call that changes its medium: as a
kill would leave it then, and as a loss of power may.
"""

import errno
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.ssd.allowance import Allowance, saved_state
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import Files, OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import disk_bytes
from tests.ledger import UNIVERSE, Ledger, found_in, held_by, operations, perform
from tests.power_loss import SECTOR_BYTES, LossyFiles, PowerCut

MASTER = bytes(range(32))
ROOMY = 3_000_000
"""A limit under which nothing has to be evicted."""
SETTINGS: dict[str, dict[str, Any]] = {
    "roomy": {"bytes_limit": ROOMY},
    "evicting": {"bytes_limit": 190_000},
    "in the clear": {"bytes_limit": 100_000, "encrypted": False},
    "compressed": {"bytes_limit": ROOMY, "chunk_bytes": 9000, "compress": True},
}


class UnsyncedFiles(OsFiles):
    """A real disk, waited for by nobody."""

    def sync(self, file: int) -> None:
        return

    def sync_folder(self, path: Path) -> None:
        return


class WatchedFiles(LossyFiles):
    """Calls ``watch`` before every call that changes something. Large writes are done by halves."""

    watch: Callable[[], None] | None = None

    @contextmanager
    def _call(self, divisible: bool = False) -> Iterator[float]:
        if self.watch is not None and not self.off:
            with self._lock:
                self.watch()
        with super()._call(divisible) as part:
            yield part

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        if direct:
            raise OSError(errno.EINVAL, "no direct I/O")
        return super().open(path, writable=writable)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        whole = b"".join(data)
        half = (offset + len(whole) // 2) // SECTOR_BYTES * SECTOR_BYTES - offset
        return super().write(file, [memoryview(whole)[: half if half > 0 else None]], offset)


class Clock:
    """A second a reading."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        self.now += 1
        return self.now


def open_store(
    root: Path,
    files: Files,
    *,
    encrypted: bool = True,
    bytes_per_day: int | None = None,
    **settings: Any,
) -> SsdStore:
    """A store whose clock begins anew, in small pieces and with one thread for I/O."""
    clock = Clock()
    values = {"chunk_bytes": 3000, "snapshot_after": 9, "read_threads": 1, **settings}
    config = SsdConfig(root=root, fingerprint="f", **values)

    def make_sealer() -> Sealer:
        keys = root / "keys"
        return EncryptedSealer(Keyring.open(keys, MASTER, files)) if encrypted else ClearSealer()

    def make_allowance() -> Allowance:
        path = root / "budget"
        assert bytes_per_day is not None
        budget = WriteBudget(bytes_per_day, clock, saved_state(path, files))
        return Allowance(path, files, budget)

    return SsdStore.open(
        config,
        clock,
        files=files,
        make_sealer=make_sealer,
        make_allowance=make_allowance if bytes_per_day is not None else None,
    )


class Sweep:
    """One store through several lives, looked at before every call that changes the medium."""

    def __init__(self, folder: Path, seed: int, **settings: Any) -> None:
        self.folder = folder
        self.settings = settings
        self.roomy = settings["bytes_limit"] >= ROOMY
        self.chance = random.Random(seed)
        self.operations = operations(seed)
        encrypted = settings.get("encrypted", True)
        self.after_kill = Ledger(flush_needed=False, encrypted=encrypted)
        self.after_cut = Ledger(flush_needed=True, encrypted=encrypted)
        self.store: SsdStore | None = None
        self.cuts = self.images = 0
        self.failures: list[BaseException] = []
        self.use_disk(folder / "disk-0")

    def use_disk(self, disk: Path) -> None:
        disk.mkdir(mode=0o700, exist_ok=True)
        self.disk = disk
        self.files = WatchedFiles(disk)

    def open(self) -> SsdStore:
        return open_store(self.disk / "store", self.files, **self.settings)

    def live(self, operations: int) -> None:
        """Work, ending in the middle of an operation."""
        self.files.watch = self.look
        store = self.store = self.open()
        held = held_by(store)
        for number in range(operations):
            if number == operations - 1:
                self.files.stop_after(self.chance.randint(1, 12), self.chance.choice([0, 0.5, 1]))
            operation = next(self.operations)
            for ledger in (self.after_kill, self.after_cut):
                ledger.begin(operation)
            try:
                store, stored = perform(operation, store, self.reopen)
            except PowerCut:
                return
            self.store, held = store, held_by(store)
            for ledger in (self.after_kill, self.after_cut):
                ledger.end(operation, stored, held)

    def reopen(self, store: SsdStore) -> SsdStore:
        store.close()
        return self.open()

    def crash(self) -> None:
        """Go on with what a kill or a loss of power leaves."""
        self.files.watch = None
        self.files.stop_after(0)
        self.files.close_all()
        power = self.chance.random() < 0.5
        if power:
            disk = self.folder / f"disk-{self.cuts}"
            self.files.crash_image(self.cuts, disk)
            self.use_disk(disk)
        self.files.off = False
        store = self.open()
        found = found_in(store)
        store.close()
        self.after_kill.settle(found, durable=True)
        self.after_cut.settle(found, durable=power)

    def look(self) -> None:
        """The medium as a kill leaves it now, and one of the states that a loss of power may."""
        self.cuts += 1
        image = self.folder / "image"
        for ledger in (self.after_kill, self.after_cut):
            self.images += 1
            if ledger is self.after_kill:
                self.files.kill_image(image)
            else:
                self.files.crash_image(self.cuts, image)
            try:
                self.check(image / "store", ledger)
            except Exception as failure:  # noqa: BLE001 - raised by the test's own thread
                self.failures.append(failure)
            shutil.rmtree(image)

    def check(self, root: Path, ledger: Ledger) -> None:
        limit = self.settings["bytes_limit"]
        evicted = set()
        if self.store and ledger.may_evict and not self.roomy:
            evicted = set(UNIVERSE) - held_by(self.store)
        if ledger is self.after_kill and root.exists():
            assert disk_bytes(root) <= limit
        store = open_store(root, UnsyncedFiles(), **self.settings)
        try:
            assert disk_bytes(root) <= limit
            if store.stats().evicted_chunks and not self.roomy:
                evicted = set(UNIVERSE)
            ledger.check(found_in(store), evicted)
            chunk = memoryview(bytes(store.chunk_bytes))
            new = store.put([ChunkKey(b"new")], [chunk], SessionKey("t0/new"))
            assert new == [WriteOutcome.STORED]
            assert disk_bytes(root) <= limit
        finally:
            store.close()
