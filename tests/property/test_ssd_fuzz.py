"""The readers of the SSD store's files against hostile bytes, a little of ``tests.fuzz`` each."""

import errno
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_tiers.manifest import Manifests
from cache_tiers.ssd import journal, snapshot_format
from cache_tiers.ssd.snapshot_format import decode, encode
from cache_tiers.store import StoreUnusable, WriteOutcome
from tests import hostile
from tests.fuzz import TARGETS, bounded_memory, refuse_or_take, try_reader
from tests.ssd_sweep import UnsyncedFiles

READER = settings(max_examples=300, deadline=None)
STORE = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ABSURD_BYTES = 2**40


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    with bounded_memory():
        yield


@pytest.mark.parametrize("name", TARGETS)
@READER
@given(chance=st.randoms(use_true_random=True))
def test_damaged_files(name: str, chance: random.Random) -> None:
    try_reader(TARGETS[name], chance)


@pytest.mark.parametrize("name", TARGETS)
@READER
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("magic", [b"", journal.MAGIC, snapshot_format.MAGIC, b"VALETMAN"])
def test_any_bytes(name: str, magic: bytes, data: bytes) -> None:
    refuse_or_take(TARGETS[name], magic + data)


@STORE
@given(chance=st.randoms(use_true_random=True))
def test_whole_stores(chance: random.Random) -> None:
    hostile.try_store(chance)


@pytest.mark.parametrize("name", [*hostile.image("ours"), "f/0000000099.journal"])
def test_a_file_of_absurd_size_takes_no_memory(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    hostile.write(root, hostile.image("ours"))
    (root / name).touch()
    os.truncate(root / name, ABSURD_BYTES)
    try:
        Manifests.open(root / "f" / "manifests")
        hostile.open_store(root, hostile.MASTER).close()
    except StoreUnusable:
        return


def test_a_snapshot_that_is_cut_short_under_a_running_store(tmp_path: Path) -> None:
    root = tmp_path / "store"
    hostile.write(root, hostile.image("ours"))
    store = hostile.open_store(root, hostile.MASTER)
    os.truncate(root / "f" / "snapshot", 0)
    assert any(store.contains(hostile.key(number)) for number in hostile.NUMBERS)
    hostile.use(store, 1, shredded=True)
    store.close()


def test_times_that_no_clock_shows(tmp_path: Path) -> None:
    root = tmp_path / "store"
    image = dict(hostile.image("ours"))
    segments = decode(memoryview(image["f/snapshot"]), "f", hostile.CHUNK)
    assert segments
    table = [replace(summary, last_used=1e300) for summary in segments.values()]
    head = encode("f", hostile.CHUNK, table)
    image["f/snapshot"] = head + image["f/snapshot"][len(head) :]
    hostile.write(root, image)
    store = hostile.open_store(root, hostile.MASTER)
    assert store.contains(hostile.key(7))
    hostile.use(store, 1, shredded=True)
    store.close()


class NoSnapshot(UnsyncedFiles):
    """The disk cannot read it."""

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        if Path(f"/proc/self/fd/{file}").readlink().name == "snapshot":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(file, into, offset)


def test_a_snapshot_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "store"
    hostile.write(root, hostile.image("ours"))
    store = hostile.open_store(root, hostile.MASTER, files=NoSnapshot())
    assert store.contains(hostile.key(7))
    hostile.use(store, 1, shredded=True)
    store.close()


@pytest.mark.parametrize("kind", ["journal", "segment"])
def test_what_is_no_file_but_has_a_segments_name_is_passed_over(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "store"
    (root / "f" / f"0000000001.{kind}").mkdir(parents=True)
    store = hostile.open_store(root, hostile.MASTER)
    chunk = memoryview(hostile.content(1, 1))
    stored = store.put([hostile.key(1)], [chunk], hostile.SESSIONS[0])
    assert stored == [WriteOutcome.STORED]
    store.close()


@pytest.mark.parametrize("name", ["keys", "budget", "f/snapshot", "f/manifests"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    hostile.write(root, hostile.image("ours"))
    (root / name).unlink()
    os.mkfifo(root / name)
    opened: list[object] = []

    def open_both() -> None:
        with suppress(StoreUnusable):
            opened.append(Manifests.open(root / "f" / "manifests"))
        with suppress(StoreUnusable):
            store = hostile.open_store(root, hostile.MASTER)
            opened.append(store)
            store.close()

    thread = threading.Thread(target=open_both, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(opened) == (2 if name.startswith("f/") else 1)
