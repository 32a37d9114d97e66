"""Dropping a session while its disk fails or hangs, in one process and without an engine."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.hints import Dropped, Failure, Reply
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.manager import TierManager
from engine.core_plugin.operations import PATIENCE_S, DropOperation, Forgotten
from engine.core_plugin.ssd_tier import SsdTier
from engine.core_plugin.vllm_compat import SharedOffloadRegion
from tests.contract.store_faults import FaultyFiles

CHUNK = 4096
SESSION = SessionKey("tenant/session")
OWN, SHARED = ChunkKey(b"own"), ChunkKey(b"shared")


class View:
    """A scheduler side that knows one session: what it has itself, and what it shares."""

    tokens_per_chunk = 16

    def __init__(self, folder: Path, files: FaultyFiles) -> None:
        region = SharedOffloadRegion(f"test-{os.getpid()}-{id(self)}", 4, None, CHUNK, CHUNK)
        Path(region.mmap_path).unlink()
        region._creator = False
        dram = DramTier(num_chunks=4, mmap_region=region)
        installation = Installation(
            root=folder / "store",
            bytes_limit=1 << 20,
            master_key=f"file:{folder / 'master.key'}",
        )
        self.ssd = SsdTier(
            None,
            dram.get_kv_memoryview(),
            "ssd",
            store=open_store(installation, "f" * 32, CHUNK, files=files),
            manifests=Manifests.open(installation.manifests("f" * 32)),
            read_deadline_s=0.05,
        )
        self.manager = TierManager(dram, self.ssd)
        self.known = True
        chunk = memoryview(bytes(CHUNK))
        self.ssd.store.put([OWN, SHARED], [chunk, chunk], SESSION)

    def is_quiet(self, _: SessionKey | None) -> bool:
        return True

    def chain(self, _: SessionKey) -> tuple[ChunkKey, ...] | None:
        return (OWN, SHARED) if self.known else None

    def forget(self, _: SessionKey) -> Forgotten:
        known, self.known = self.known, False
        return Forgotten([OWN], [SHARED]) if known else Forgotten([], [])

    def drop(self) -> Reply:
        """Drop the session, in a time in which nothing is late."""
        operation = DropOperation(self, SESSION, now=0.0)
        until = time.monotonic() + 10
        while (reply := operation.poll(now=0.0)) is None:
            assert time.monotonic() < until, "nothing happened"
            time.sleep(0.001)
        return reply


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def view(tmp_path: Path, files: FaultyFiles) -> Iterator[View]:
    made = View(tmp_path, files)
    yield made
    made.manager.shutdown()


def test_a_drop_that_failed_is_done_when_it_is_asked_again(view: View, files: FaultyFiles) -> None:
    files.broken["sync"] = errno.EIO
    assert isinstance(view.drop(), Failure)
    files.broken.clear()
    dropped = view.drop()
    assert isinstance(dropped, Dropped)
    assert dropped.key_destroyed
    store = view.ssd.store
    assert store.stats().chunks == 1, "what was the session's own takes no room any more"
    assert store.get([SHARED], [memoryview(bytearray(CHUNK))]) == [ReadOutcome.OK]
    assert not store.shred(SESSION), "no key is left"


def test_a_drop_does_not_wait_for_a_hung_disk_for_ever(view: View, files: FaultyFiles) -> None:
    files.hang_writes = returns = threading.Event()
    operation = DropOperation(view, SESSION, now=0.0)
    assert operation.poll(now=0.0) is None
    assert files.hung.acquire(timeout=10)
    assert operation.poll(now=PATIENCE_S) is None
    assert isinstance(operation.poll(now=PATIENCE_S + 1), Failure)
    returns.set()
    files.hang_writes = None
    assert isinstance(view.drop(), Dropped)
    assert not view.ssd.store.contains(OWN)


def test_draining_does_not_wait_for_a_hung_disk_for_ever(view: View, files: FaultyFiles) -> None:
    files.hang_writes = returns = threading.Event()
    drop = view.ssd.drop(SESSION, [OWN], [SHARED])
    assert files.hung.acquire(timeout=10)
    view.ssd.drain_jobs()
    assert not drop.done()
    returns.set()
    assert drop.result(timeout=10)
