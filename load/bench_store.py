"""What the SSD store costs beside the bare disk, and what its index can do.

A shared or virtual disk is faster at one moment than at the next, so nothing is compared over
time: every run of the store has a run of the bare disk right before or, every other time, behind
it, on the same drive. A sample is the ratio of the two.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import OsFiles, probe_direct
from load.environment import describe
from load.index_run import IndexRun, measure_index
from load.report import Spread, table, verdict, write_json
from load.server import REPOSITORY
from load.store_run import Material, Pair, Size, StoreRun, Way

CHUNK_BYTES: Final = (100 * PAGE_BYTES, 2 * 2**20, 8 * 2**20)
DATA_BYTES: Final = 2**30
QUICK_DATA_BYTES: Final = 2**27
INDEX_CHUNKS: Final = 1_000_000
QUICK_INDEX_CHUNKS: Final = 100_000
WANTED_OVER_RAW: Final = {"restore": 0.95, "write": 0.9}
WANTED_CPU_MS_PER_GB: Final = 200
WANTED_AMPLIFICATION: Final = 1.05
WANTED_START_MS: Final = 50
WANTED_LOOKUPS_PER_S: Final = 500_000


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
            run = StoreRun(folder, chunk_bytes, data_bytes, material)
            for way in Way:
                more, size = run.measure(way, repeats)
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
