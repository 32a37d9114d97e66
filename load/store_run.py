"""Runs of the SSD store and of the bare disk, in turns.

A restore reads a session's chunks into page-aligned memory after a new start of the store; the bare
disk reads the very bytes that the store has on the drive. What the store gives is compared with
what it was given.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.extent import PAGE_BYTES, page_bytes
from cache_tiers.ssd.files import OsFiles, probe_direct
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import SessionKey
from load import raw_disk
from load.index_run import keys
from load.raw_disk import Timed, drop_page_cache

PUT_BYTES: Final = 64 * 2**20
"""Of one ``put``: about what a turn of an agent adds."""
_FINGERPRINT: Final = "bench"
_SESSION: Final = SessionKey("bench/session")
_RAW_FILE_BYTES: Final = 256 * 2**20
_A = TypeVar("_A")
_B = TypeVar("_B")


class Way(StrEnum):
    """How chunks are stored."""

    ENCRYPTED = "encrypted"
    CLEAR = "clear"
    COMPRESSED = "compressed"
    """And encrypted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A run of the store and one of the bare disk."""

    what: str
    """``restore`` or ``write``."""
    way: Way
    chunk_bytes: int
    raw: Timed
    store: Timed


@dataclass(frozen=True, slots=True)
class Size:
    """Of a filled store."""

    way: Way
    chunk_bytes: int
    amplification: float
    """Bytes that went to the medium over bytes put."""
    compression: float
    """Bytes put over bytes in segments."""


class Material:
    """What is written: page-aligned chunks out of one pool. ``kv`` fills it; without it normally
    distributed bf16 does, on a scale for each of 64 channels."""

    def __init__(self, kv: bytes = b"", pool_bytes: int = 8 * raw_disk.TRANSFER_BYTES) -> None:
        self.pool = aligned(pool_bytes)
        words = np.frombuffer(self.pool, np.uint16)
        if kv:
            words[:] = np.resize(np.frombuffer(kv[: len(kv) // 2 * 2], np.uint16), len(words))
            return
        dice = np.random.default_rng(0)
        values = dice.standard_normal((len(words) // 64, 64), np.float32)
        values *= 2 ** dice.standard_normal(64, np.float32)
        np.right_shift(values.ravel().view(np.uint32), 16, out=words, casting="unsafe")

    def chunk(self, number: int, size: int) -> memoryview:
        """Always the same for the same two."""
        start = number * size % (self.pool.nbytes - size + 1)
        return self.pool[start // PAGE_BYTES * PAGE_BYTES :][:size]


class StoreRun:
    """One chunk size in ``folder``, which is the benchmark's own. The data is ``data_bytes``,
    rounded up to whole chunks."""

    def __init__(self, folder: Path, chunk_bytes: int, data_bytes: int, material: Material) -> None:
        self._folder = folder
        self._root = folder / "store"
        self._chunk_bytes = chunk_bytes
        self._material = material
        self._direct = probe_direct(OsFiles(), folder)
        self._master = os.urandom(32)
        count = -(-data_bytes // chunk_bytes)
        self._bytes = count * chunk_bytes
        self._keys = keys(count)
        self._chunks = [material.chunk(i, chunk_bytes) for i in range(count)]
        self._arena = aligned(self._bytes)
        # An engine's arena is there before it is read into.
        np.frombuffer(self._arena, np.uint8)[::PAGE_BYTES] = 1

    def measure(self, way: Way, repeats: int) -> tuple[list[Pair], Size]:
        """``repeats`` new stores, and as many restores from the last of them."""
        pairs = []
        for repeat in range(repeats):
            shutil.rmtree(self._root, ignore_errors=True)
            raw, (store, size) = in_turns(repeat, self._write_raw, partial(self._fill, way))
            pairs.append(Pair("write", way, self._chunk_bytes, raw, store))
        # What a host keeps of a first reading it keeps for both.
        self._read_raw()
        for repeat in range(repeats):
            raw, store = in_turns(repeat, self._read_raw, partial(self._restore, way))
            pairs.append(Pair("restore", way, self._chunk_bytes, raw, store))
        shutil.rmtree(self._root)
        return pairs, size

    @contextmanager
    def _opened(self, way: Way) -> Iterator[SsdStore]:
        config = SsdConfig(
            root=self._root,
            fingerprint=_FINGERPRINT,
            chunk_bytes=self._chunk_bytes,
            bytes_limit=4 * self._bytes + 2**30,
            compress=way is Way.COMPRESSED,
        )
        store = SsdStore.open(config, make_sealer=partial(self._sealer, way))
        try:
            yield store
        finally:
            store.close()

    def _sealer(self, way: Way) -> Sealer:
        if way is Way.CLEAR:
            return ClearSealer()
        return EncryptedSealer(Keyring.open(self._root / "keys", self._master, OsFiles()))

    def _fill(self, way: Way) -> tuple[Timed, Size]:
        step = max(1, PUT_BYTES // self._chunk_bytes)

        def put() -> int:
            for i in range(0, len(self._keys), step):
                told = store.put(self._keys[i : i + step], self._chunks[i : i + step], _SESSION)
                if set(told) != {WriteOutcome.STORED}:
                    raise RuntimeError(f"not every chunk was stored: {set(told)}")
            store.flush()
            return self._bytes

        with self._opened(way) as store:
            timed = Timed.of(put)
        # What a stop writes is a part of it.
        to_medium = store.stats().device_bytes_written
        in_segments = sum(span.length for span in self._segments())
        return timed, Size(
            way, self._chunk_bytes, to_medium / self._bytes, self._bytes / in_segments
        )

    def _restore(self, way: Way) -> Timed:
        size = self._chunk_bytes
        rows = [self._arena[at : at + size] for at in range(0, self._bytes, size)]

        def get() -> int:
            told = store.get(self._keys, rows)
            if set(told) != {ReadOutcome.OK}:
                raise RuntimeError(f"not every chunk came back: {set(told)}")
            return self._bytes

        # What is in the arena from before must not pass for what was read.
        np.frombuffer(self._arena, np.uint8)[::PAGE_BYTES] += 1
        with self._opened(way) as store:
            self._forget_pages()
            timed = Timed.of(get)
        if not all(map(np.array_equal, rows, self._chunks)):
            raise RuntimeError("the store gave other bytes than it was given")
        return timed

    def _write_raw(self) -> Timed:
        count = -(-self._bytes // _RAW_FILE_BYTES)
        folder = self._folder / "raw"
        folder.mkdir()
        try:
            paths = [folder / str(i) for i in range(count)]
            spans = raw_disk.allocate(paths, page_bytes(-(-self._bytes // count)))
            return Timed.of(lambda: raw_disk.write(spans, self._material.pool, direct=self._direct))
        finally:
            shutil.rmtree(folder)

    def _read_raw(self) -> Timed:
        spans = self._segments()
        self._forget_pages()
        return Timed.of(lambda: raw_disk.read(spans, self._arena, direct=self._direct))

    def _segments(self) -> list[raw_disk.Span]:
        paths = sorted((self._root / _FINGERPRINT).glob("*.segment"))
        return [span for path in paths for span in raw_disk.written(path)]

    def _forget_pages(self) -> None:
        if not self._direct:
            drop_page_cache(self._root)


def in_turns(repeat: int, first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    """What both return; every other time the second runs first."""
    if repeat % 2:
        early = second()
        return first(), early
    return first(), second()
