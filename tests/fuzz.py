"""Hostile bytes for every reader of the SSD store's files: ``python -m tests.fuzz`` (or make fuzz).

Whatever the bytes, a reader refuses them (StoreUnusable, None) or takes what is sound; no other
exception, no wrong chunk, no more memory than ``MEMORY`` beside what the process has.
"""

import gc
import logging
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.manifest import Manifests
from cache_tiers.ssd import exponents, journal
from cache_tiers.ssd.allowance import saved_state
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.frames import Mark
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import Header
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.snapshot import Contents, Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import decode
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey
from tests import hostile
from tests.damage import damaged, signed

MEMORY = 2**30
PURE_INPUTS = 20_000
"""For each reader."""
STORE_INPUTS = 6_000


class BytesFiles(OsFiles):
    """One file, in memory, whatever its name; takes all that is written, and forgets it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        return 0

    def create(self, path: Path) -> int:
        return 0

    def close(self, file: int) -> None:
        return

    def size(self, file: int) -> int:
        return len(self._data)

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        part = self._data[offset : offset + into[0].nbytes]
        into[0][: len(part)] = part
        return len(part)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        return sum(part.nbytes for part in data)

    def truncate(self, file: int, size: int) -> None:
        return

    def sync(self, file: int) -> None:
        return

    def sync_folder(self, path: Path) -> None:
        return

    def replace(self, source: Path, target: Path) -> None:
        return

    def remove(self, path: Path) -> None:
        return


@dataclass(frozen=True)
class Target:
    """A reader, and the files it is for: those whose names end so."""

    ending: str
    read: Callable[[bytes], None]


def headers(tenant: bytes) -> list[Header]:
    """Of all segments that the samples are of."""
    return [Header(f, number, hostile.CHUNK, tenant) for f in "fg" for number in range(1, 5)]


def read_journal(data: bytes) -> None:
    journal.chunk_bytes_in(data)
    for header in headers(journal.tenant_in(data) or bytes(16)):
        said = journal.replay(data, header)
        if said is not None:
            # Whatever was understood can be written down again.
            journal.puts(said.puts, said.mark)
            journal.deletes(said.puts, said.mark)


def read_tail(data: bytes) -> None:
    header = Header("f", 1, hostile.CHUNK, bytes(16))
    said = journal.replay_tail(data[len(journal.MAGIC) :], header, Mark(len(journal.MAGIC), 0))
    journal.puts(said.puts, said.mark)


def load_segment(data: bytes) -> None:
    for header in headers(bytes(16)):
        segment = Segment.unborn(BytesFiles(data), Path("x"), header, 100)
        segment.journal_extent = len(data)
        segment.data_extent = 50 * PAGE_BYTES
        if segment.load(None, repair=True) is not None:
            assert segment.pages < 2**32
            assert segment.mark.end <= len(data)


def read_snapshot(data: bytes) -> None:
    decode(memoryview(data), "f", hostile.CHUNK)
    snapshot = Snapshot.open(BytesFiles(data), Path("x"), "f", hostile.CHUNK)
    if snapshot is None:
        return
    index = Index(hostile.AnyKeys(), snapshot)
    keys = [hostile.key(number) for number in range(20)]
    for key, place in zip(keys, index.find(keys), strict=True):
        assert (place is not None) == (key in index)
    for segment in snapshot.segments:
        index.live(segment)
        index.add(segment, index.of_segment(segment)[:3])
    contents = Contents(snapshot, bytes(len(snapshot)), {})
    tables = snapshot.segments.values()
    write_snapshot(BytesFiles(b""), Path("x"), "f", hostile.CHUNK, tables, contents)
    index.forget(keys)
    for segment in snapshot.segments:
        index.forget_segment(segment)
    assert len(index) >= 0


def read_keys(data: bytes) -> None:
    keyring = Keyring.open(Path("keys"), hostile.MASTER, BytesFiles(data), read_only=True)
    for session, number in hostile.numbers().items():
        found = keyring.find(session)
        if found is not None:
            with suppress(KeyError):
                keyring.cipher(found)
                assert found == number, "a key under another's name"


def read_budget(data: bytes) -> None:
    state = saved_state(Path("x"), BytesFiles(data))
    assert 0 <= WriteBudget(10_000, lambda: 1e9, state).level <= 10_000


def read_manifests(data: bytes) -> None:
    manifests = Manifests.open(Path("x"), files=BytesFiles(data))
    for session in manifests.sessions():
        manifests.get(session)
        manifests.replace(session, [ChunkKey(b"a"), ChunkKey(b"b")])
    manifests.persist()
    for session in manifests.sessions():
        manifests.drop(session)


def decompress(data: bytes) -> None:
    exponents.decompress(memoryview(data), memoryview(bytearray(hostile.CHUNK)))


TARGETS: dict[str, Target] = {
    "journal": Target("journal", read_journal),
    "tail of a journal": Target("journal", read_tail),
    "segment": Target("journal", load_segment),
    "snapshot": Target("snapshot", read_snapshot),
    "keyring": Target("keys", read_keys),
    "budget": Target("budget", read_budget),
    "manifests": Target("manifests", read_manifests),
    "compressed chunk": Target("compressed", decompress),
}


@cache
def samples(ending: str) -> list[tuple[str, bytes]]:
    """Sound files, by name."""
    return [(name, data) for name, data in hostile.files().items() if name.endswith(ending)]


def try_reader(target: Target, chance: random.Random) -> None:
    """One input."""
    found = samples(target.ending)
    name, data = chance.choice(found)
    data = damaged(chance, data, [other for _, other in found])
    if chance.random() < 0.7:
        data = signed(Path(name).name, data)
    refuse_or_take(target, data)


def refuse_or_take(target: Target, data: bytes) -> None:
    """Nothing else may happen."""
    try:
        target.read(data)
    except StoreUnusable:
        return


@contextmanager
def bounded_memory() -> Iterator[None]:
    """MemoryError for who takes more than MEMORY."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run(name: str, inputs: int, try_one: Callable[[random.Random], None]) -> None:
    """So many inputs, each of a seed of its own."""
    began = time.monotonic()
    for seed in range(inputs):
        try:
            try_one(random.Random(seed))
        except BaseException:
            print(f"{name}: input {seed}", flush=True)
            raise
        if not seed % 50:
            # A store goes in a cycle with its parts, and its buffers with it.
            gc.collect()
    print(f"{name:18} {inputs:7} inputs {time.monotonic() - began:6.1f} s", flush=True)


def main() -> None:
    """Print how many inputs each reader has stood."""
    # What is wrong with each damaged file is of no interest here.
    logging.disable()
    with bounded_memory():
        for name, target in TARGETS.items():
            run(name, PURE_INPUTS, partial(try_reader, target))
        run("whole stores", STORE_INPUTS, hostile.try_store)
    print(f"{'together':18} {len(TARGETS) * PURE_INPUTS + STORE_INPUTS:7} inputs")


if __name__ == "__main__":
    main()
