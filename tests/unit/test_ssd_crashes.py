"""The SSD store cut off at every call that changes the medium, by a kill and by a loss of power."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.ledger import content, found_in, held_by, key
from tests.power_loss import LossyFiles, PowerCut
from tests.ssd_sweep import SETTINGS, Sweep, UnsyncedFiles, open_store

LIVES = 3
"""Each begins where a crash ended the one before."""
OPERATIONS = 10
"""A life."""
IMAGES = 24
"""Of one moment: what a loss of power may leave."""
OWNER = SessionKey("acme/alice")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_cut_leaves_a_store_that_keeps_its_word(tmp_path: Path, name: str) -> None:
    sweep = Sweep(tmp_path, seed=1, **SETTINGS[name])
    for _ in range(LIVES):
        sweep.live(OPERATIONS)
        if sweep.failures:
            raise sweep.failures[0]
        sweep.crash()
    assert sweep.images == 2 * sweep.cuts > 500


class Machine:
    """One store, on a disk that may lose what is not synced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "disk").mkdir(parents=True)
        self.files = LossyFiles(folder / "disk")
        self.store = self.open()

    def open(self) -> SsdStore:
        root = self.folder / "disk" / "store"
        return open_store(root, self.files, bytes_limit=1_000_000, snapshot_after=99)

    def put(self, *numbers: int) -> None:
        chunks = [memoryview(content(n, 1, self.store.chunk_bytes)) for n in numbers]
        stored = self.store.put([key(n) for n in numbers], chunks, OWNER)
        assert stored == [WriteOutcome.STORED] * len(numbers)

    def delete(self, *numbers: int) -> None:
        assert self.store.delete([key(n) for n in numbers]) == len(numbers)

    def kill(self) -> None:
        """Start again where a kill ended the process."""
        self.files.close_all()
        self.files.stop_after(0)
        self.files.off = False
        self.store = self.open()

    def after_losses_of_power(self) -> Iterator[set[int]]:
        """What the store has after each."""
        for seed in range(IMAGES):
            image = self.folder / "image"
            self.files.crash_image(seed, image)
            store = open_store(image / "store", UnsyncedFiles(), bytes_limit=1_000_000)
            yield set(found_in(store))
            store.close()
            shutil.rmtree(image)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.store.close()


def test_the_folder_of_a_new_store_is_safe_after_a_flush(machine: Machine) -> None:
    machine.put(1, 2)
    machine.store.flush()
    assert all(found == {1, 2} for found in machine.after_losses_of_power())


def test_a_flush_covers_what_a_killed_process_wrote(machine: Machine) -> None:
    machine.put(1, 2)
    machine.kill()
    machine.store.flush()
    assert all(found == {1, 2} for found in machine.after_losses_of_power())


def test_deleted_is_gone_without_a_flush(machine: Machine) -> None:
    machine.put(1, 2, 3)
    machine.store.flush()
    machine.delete(1)
    assert all(found == {2, 3} for found in machine.after_losses_of_power())
    machine.delete(2, 3)
    assert all(found == set() for found in machine.after_losses_of_power())


def test_copies_are_safe_before_the_originals_go(machine: Machine) -> None:
    machine.put(*range(10))
    machine.store.flush()
    machine.delete(*range(8))
    machine.store.compact()
    assert held_by(machine.store) == {8, 9}
    assert all(found == {8, 9} for found in machine.after_losses_of_power())


def test_deleted_after_a_kill_during_compaction_is_deleted_in_both_places(
    tmp_path: Path,
) -> None:
    cuts = 0
    while True:
        machine = Machine(tmp_path / f"{cuts}")
        machine.put(*range(10))
        machine.delete(*range(8))
        machine.files.stop_after(cuts + 1)
        whole = False
        with suppress(PowerCut):
            machine.store.compact()
            whole = True
        machine.kill()
        machine.delete(8)
        machine.kill()
        assert held_by(machine.store) == {9}
        machine.store.close()
        if whole:
            break
        cuts += 1
    assert cuts > 10


def test_no_loss_of_power_renews_the_budget(tmp_path: Path) -> None:
    budget, stored = 40 * PAGE_BYTES, 0
    disk = tmp_path / "disk-0"
    disk.mkdir()
    for life in range(60):
        files = LossyFiles(disk)
        files.stop_after(3 * life + 1)
        with suppress(PowerCut):
            store = open_store(disk / "store", files, bytes_limit=2_000_000, bytes_per_day=budget)
            for number in range(10):
                name = ChunkKey(f"{life}.{number}".encode())
                chunk = memoryview(bytes(store.chunk_bytes))
                stored += store.put([name], [chunk], OWNER) == [WriteOutcome.STORED]
        files.close_all()
        disk = tmp_path / f"disk-{life + 1}"
        files.crash_image(life, disk)
    assert 5 < stored <= 40


def test_a_folder_above_that_may_not_be_read(tmp_path: Path) -> None:
    class Files(UnsyncedFiles):
        def sync_folder(self, path: Path) -> None:
            if path == tmp_path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    open_store(tmp_path / "store", Files(), bytes_limit=1_000_000).close()
