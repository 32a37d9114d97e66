"""What the SSD store costs beside the bare disk, and what its index can do.

A shared or virtual disk is faster at one moment than at the next, so nothing is compared over
time: every run of the store has a run of the bare disk right before or, every other time, behind
it, on the same drive. A sample is the ratio of the two. A restore reads a session's chunks into
page-aligned memory after a new start of the store; the bare disk reads the very bytes that the
store has on the drive. What the store gives is compared with what it was given.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

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
from load.environment import describe
from load.index_run import IndexRun, keys, measure_index
from load.raw_disk import Timed, drop_page_cache
from load.report import Spread, table, verdict, write_json
from load.server import REPOSITORY

CHUNK_BYTES: Final = (100 * PAGE_BYTES, 2 * 2**20, 8 * 2**20)
DATA_BYTES: Final = 2**30
QUICK_DATA_BYTES: Final = 2**27
PUT_BYTES: Final = 64 * 2**20
"""Of one ``put``: about what a turn of an agent adds."""
INDEX_CHUNKS: Final = 1_000_000
QUICK_INDEX_CHUNKS: Final = 100_000
WANTED_OVER_RAW: Final = {"restore": 0.95, "write": 0.9}
WANTED_CPU_MS_PER_GB: Final = 200
WANTED_AMPLIFICATION: Final = 1.05
WANTED_START_MS: Final = 50
WANTED_LOOKUPS_PER_S: Final = 500_000

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


class Bench:
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


def summarize(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row for everything measured. Pure."""
    rows = []
    for what, way, size in dict.fromkeys((p.what, p.way, p.chunk_bytes) for p in pairs):
        of = [p for p in pairs if (p.what, p.way, p.chunk_bytes) == (what, way, size)]
        spreads = {
            "over_raw": Spread.of([p.store.rate / p.raw.rate for p in of]),
            "store_bytes_per_s": Spread.of([p.store.rate for p in of]),
            "raw_bytes_per_s": Spread.of([p.raw.rate for p in of]),
            "cpu_ms_per_gb": Spread.of([p.store.cpu_ms_per_gb for p in of]),
            "raw_cpu_ms_per_gb": Spread.of([p.raw.cpu_ms_per_gb for p in of]),
        }
        row = {"what": what, "way": way, "chunk_bytes": size}
        rows.append(row | {name: s and asdict(s) for name, s in spreads.items()})
    return rows


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and what is wanted of it."""

    figure: str
    seen: float
    wanted: float | None = None
    most: bool = False
    """Whether ``wanted`` is the most and not the least."""

    @property
    def met(self) -> bool | None:
        """None where nothing is wanted."""
        if self.wanted is None:
            return None
        return self.seen <= self.wanted if self.most else self.seen >= self.wanted


def judge(rows: Sequence[dict[str, Any]], sizes: Sequence[Size], index: IndexRun) -> list[Goal]:
    """What was seen, beside what is wanted. Pure."""
    goals = []
    for row in rows:
        compressed = row["way"] is Way.COMPRESSED
        name = f"{row['what']}, {row['way']}, {_mb(row['chunk_bytes'])} MB"
        least = WANTED_OVER_RAW[row["what"]]
        ratio = row["over_raw"]["median"]
        goals.append(Goal(f"{name}: of the bare disk", ratio, None if compressed else least))
        if row["what"] == "restore":
            cpu = row["cpu_ms_per_gb"]["median"]
            most = None if compressed else WANTED_CPU_MS_PER_GB
            goals.append(Goal(f"{name}: CPU ms a GB", cpu, most, most=True))
    for size in sizes:
        name = f"{size.way}, {_mb(size.chunk_bytes)} MB"
        if size.way is Way.COMPRESSED:
            goals.append(Goal(f"{name}: compression", size.compression))
        else:
            amplification = size.amplification
            goals.append(
                Goal(f"{name}: bytes written a byte", amplification, WANTED_AMPLIFICATION, True)
            )
    goals += [
        Goal("index: start from a snapshot, ms", index.start_s * 1e3, WANTED_START_MS, most=True),
        Goal("index: lookups a second, found", index.found_per_s, WANTED_LOOKUPS_PER_S),
        Goal("index: lookups a second, not found", index.missed_per_s, WANTED_LOOKUPS_PER_S),
    ]
    return goals


def draw_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The runs, as a table. Pure."""
    return table(
        ["", "chunk MB", "of the bare disk", "GB/s", "bare GB/s", "CPU ms/GB", "bare CPU"],
        [
            [
                f"{row['what']}, {row['way']}",
                _mb(row["chunk_bytes"]),
                "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["over_raw"]),
                f"{row['store_bytes_per_s']['median'] / 1e9:.2f}",
                f"{row['raw_bytes_per_s']['median'] / 1e9:.2f}",
                f"{row['cpu_ms_per_gb']['median']:.0f}",
                f"{row['raw_cpu_ms_per_gb']['median']:.0f}",
            ]
            for row in rows
        ],
    )


def draw_goals(goals: Sequence[Goal]) -> str:
    """Wanted and seen, as a table. Pure."""

    def sign(goal: Goal) -> str:
        if goal.wanted is None:
            return "–"
        return f"{'≤' if goal.most else '≥'} {_number(goal.wanted)}"

    return table(
        ["", "wanted", "seen", ""],
        [
            [g.figure, sign(g), _number(g.seen), "" if g.met is None else verdict(g.met)]
            for g in goals
        ],
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:,.0f}"


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_store", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of each kind (7)")
    parser.add_argument("--quick", action="store_true", help="little data, 2 repetitions")
    parser.add_argument(
        "--folder",
        type=Path,
        help="on the drive to measure (where temporary files go); it needs 3 GB",
    )
    parser.add_argument("--kv-file", type=Path, help="bf16 KV to write, instead of made-up KV")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/store.json")
    options = parser.parse_args()
    data_bytes = QUICK_DATA_BYTES if options.quick else DATA_BYTES
    index_chunks = QUICK_INDEX_CHUNKS if options.quick else INDEX_CHUNKS
    repeats = min(2, options.repeats) if options.quick else options.repeats
    environment = describe()
    material = Material(options.kv_file.read_bytes() if options.kv_file else b"")
    pairs: list[Pair] = []
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory(prefix="valet-bench-", dir=options.folder) as name:
        folder = Path(name)
        direct = probe_direct(OsFiles(), folder)
        for chunk_bytes in CHUNK_BYTES:
            bench = Bench(folder, chunk_bytes, data_bytes, material)
            for way in Way:
                more, size = bench.measure(way, repeats)
                pairs += more
                sizes.append(size)
                print(f"{_mb(chunk_bytes)} MB, {way}: done", flush=True)
        index = measure_index(folder, index_chunks, repeats)
    rows = summarize(pairs)
    goals = judge(rows, sizes, index)
    print(f"\n{draw_rows(rows)}\n\n{draw_goals(goals)}\n")
    if options.quick:
        print("Quick: too little data to judge by.")
    if not direct:
        print("No direct I/O here: what was read was dropped from the page cache before.")
    print(
        f"Medians (least–most) of {repeats} pairs of {data_bytes >> 20} MiB; all in {options.out}"
    )
    write_json(
        options.out,
        {
            "environment": environment,
            "quick": options.quick,
            "direct": direct,
            "data_bytes": data_bytes,
            "repeats": repeats,
            "kv": "given" if options.kv_file else "made up",
            "goals": [asdict(goal) | {"met": goal.met} for goal in goals],
            "rows": rows,
            "sizes": [asdict(size) for size in sizes],
            "index": asdict(index),
            "pairs": [asdict(pair) for pair in pairs],
        },
    )


if __name__ == "__main__":
    main()
