"""How much reuse a daily write budget leaves, and what the store adds to what it is asked to write.

Recorded sessions are replayed in time order through a write budget and an admission policy into a
chunk store. Sessions are split in two halves by their names: the policy was made looking at one
(``seen``), the other (``unseen``) says what it is good for. ``kept`` is the reuse with the budget
over the reuse without one. Beside the policy: first come, first written; a random share of the
sessions; a foresight that knows every chunk's future and has the same budget; and the bound that
no policy whatsoever can pass.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cache_tiers.endurance.admission import Admission, AdmissionConfig
from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.endurance.compute import relative_cost
from cache_tiers.memory_store import MemoryStore
from cache_tiers.ssd.installation import Installation, open_store
from load.environment import describe
from load.replay_writes import (
    Admitted,
    AtRandom,
    Clock,
    FirstCome,
    Foresight,
    Load,
    Policy,
    Replayed,
    best_possible,
    make_load,
    replay,
)
from load.report import table, verdicts, write_json
from load.server import REPOSITORY
from load.traces import find_traces

SHARES: Final = (1.0, 0.75, 0.5, 0.25)
"""Budgets, as shares of the demand."""
DRAM_TOKENS: Final = (131_072, 262_144, 524_288)
"""Of a cache before the store; the working set of these loads is some hundred thousand tokens."""
WANTED_KEPT: Final = 0.85
WANTED_KEPT_AT: Final = 0.5
WANTED_WRITTEN: Final = 1.05
HALVES: Final = {"seen": 0, "unseen": 1}
STAND_IN_BYTES: Final = 16
SSD_CHUNK_BYTES: Final = 64 * 1024
"""Smaller than a real chunk, which makes what a store adds to each look larger than it is."""
SSD_TURNS: Final = 800
BOUND: Final = "no policy can"


def tokens_cost(start: int, end: int) -> float:
    """Every token alike."""
    return end - start


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one load. Shares are of the load without a budget."""

    trace: str
    half: str
    policy: str
    dram_tokens: int
    budget: float
    admitted: float
    """Of the different chunks demanded."""
    kept: float
    """Tokens read again from the store, or from DRAM before it."""
    store_kept: float
    """Those of them that the store served."""
    compute_kept: float | None
    """What need not be computed again, with ``relative_cost``."""


def policies(
    load: Load, share: float, least_tokens: int
) -> dict[str, Callable[[WriteBudget], Policy]]:
    """All that are compared."""

    def admitted(cost: Callable[[int, int], float]) -> Callable[[WriteBudget], Policy]:
        config = AdmissionConfig(
            chunk_tokens=load.chunk_tokens, chunk_bytes=STAND_IN_BYTES, min_tokens=least_tokens
        )
        return lambda budget: Admitted(Admission(config, cost), budget)

    return {
        "admission": admitted(tokens_cost),
        "admission, by compute": admitted(relative_cost),
        "first come": lambda _: FirstCome(),
        "random sessions": lambda _: AtRandom(share),
        "nothing written": lambda _: AtRandom(0.0),
        "foresight": lambda _: Foresight(load, share),
    }


def measure(
    trace: str,
    half: str,
    load: Load,
    least_tokens: int,
    shares: Sequence[float] = SHARES,
    dram_tokens: int = 0,
) -> Iterator[Row]:
    """Every policy at every budget."""
    dram = dram_tokens // load.chunk_tokens

    def run(policy: Policy, clock: Clock, budget: WriteBudget | None) -> Replayed:
        store = MemoryStore(STAND_IN_BYTES, 2**50)
        return replay(load, policy, store, clock, budget, dram_chunks=dram, cost=relative_cost)

    free = run(FirstCome(), Clock(), None)
    for share in shares:
        for name, make in policies(load, share, least_tokens).items():
            clock = Clock()
            budget = WriteBudget(load.bytes_per_day(share, STAND_IN_BYTES), clock)
            done = run(make(budget), clock, budget)
            yield Row(
                trace,
                half,
                name,
                dram_tokens,
                share,
                admitted=done.admitted / load.demanded,
                kept=done.reused / free.reused,
                store_kept=done.from_store / max(1, free.from_store),
                compute_kept=done.cost_saved / free.cost_saved,
            )
        if not dram:
            bound = best_possible(load, share)
            yield Row(trace, half, BOUND, 0, share, min(share, 1.0), bound, bound, None)


def written_over_admitted(load: Load, least_tokens: int, folder: Path) -> float:
    """Bytes that the real, encrypted store writes, over those of the chunks that it was asked to
    write: half of the demand of a load's first turns."""
    load = load.beginning(SSD_TURNS)
    clock = Clock()
    budget = WriteBudget(load.bytes_per_day(0.5, SSD_CHUNK_BYTES), clock)
    config = AdmissionConfig(
        chunk_tokens=load.chunk_tokens, chunk_bytes=SSD_CHUNK_BYTES, min_tokens=least_tokens
    )
    policy = Admitted(Admission(config, tokens_cost), budget)
    installation = Installation(
        root=folder / "store",
        bytes_limit=4 * load.demanded * SSD_CHUNK_BYTES,
        master_key=f"file:{folder / 'master'}",
    )
    store = open_store(installation, "bench", SSD_CHUNK_BYTES)
    try:
        done = replay(load, policy, store, clock, budget)
        store.flush()
    finally:
        store.close()
    return store.stats().device_bytes_written / (done.admitted * SSD_CHUNK_BYTES)


def draw(rows: Sequence[Row]) -> str:
    """A table of rows of one load: a policy a line, a budget a column. Pure."""
    names = list(dict.fromkeys(row.policy for row in rows))
    by_place = {(row.policy, row.budget): row for row in rows}

    def cells(name: str, figure: str) -> list[str]:
        found = [by_place[name, share] for share in SHARES]
        values = [getattr(row, figure) for row in found]
        return ["–" if value is None else f"{value:.1%}" for value in values]

    header = [f"{share:.0%}" for share in SHARES]
    return table(
        ["policy", *[f"kept {h}" for h in header], *[f"compute {h}" for h in header]],
        [[name, *cells(name, "kept"), *cells(name, "compute_kept")] for name in names],
    )


def draw_dram(rows: Sequence[Row]) -> str:
    """Of loads with DRAM before the store: reuse in all, and the store's part. Pure."""
    return table(
        ["policy", "DRAM tokens", "kept", "kept of the store's part", "written"],
        [
            [
                row.policy,
                f"{row.dram_tokens:,}",
                f"{row.kept:.1%}",
                f"{row.store_kept:.1%}",
                f"{row.admitted:.1%}",
            ]
            for row in rows
        ],
    )


def wanted(rows: Sequence[Row], written: float | None) -> dict[str, bool | None]:
    """Whether the figures are what Valet wants to reach. Pure."""
    goals: dict[str, bool | None] = {}
    for row in rows:
        # What DRAM serves is not to the budget's credit.
        place = (row.half, row.policy, row.dram_tokens, row.budget)
        if place == ("unseen", "admission", 0, WANTED_KEPT_AT):
            goal = f"{row.trace}: kept ≥ {WANTED_KEPT:.0%} with half of the demand"
            goals[goal] = row.kept >= WANTED_KEPT
    goals[f"written ≤ {WANTED_WRITTEN:g} × admitted"] = (
        None if written is None else written <= WANTED_WRITTEN
    )
    return goals


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_endurance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no DRAM, no disk")
    parser.add_argument("--days", type=float, default=7.0, help="what a trace is spread over (7)")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens a chunk (512)")
    parser.add_argument("--min-tokens", type=int, default=1024, help="least prompt written (1024)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/endurance.json")
    options = parser.parse_args()
    environment = describe()
    traces = find_traces(os.environ, REPOSITORY)
    if not traces:
        parser.error("no traces found: VALET_TRACES names their folder")
    rows: list[Row] = []
    loads: list[dict[str, Any]] = []
    written = None
    for name, trace in traces.items():
        for half, number in HALVES.items():
            load = make_load(trace, number, options.days, options.chunk_tokens, options.min_tokens)
            loads.append(describe_load(name, half, load))
            some = list(measure(name, half, load, options.min_tokens))
            rows += some
            print(f"{name}, {half}: {_told(loads[-1])}\n{draw(some)}\n", flush=True)
        if options.quick or trace.common_clock:
            continue
        beside = [
            row
            for tokens in DRAM_TOKENS
            for row in measure(name, half, load, options.min_tokens, (WANTED_KEPT_AT,), tokens)
        ]
        rows += beside
        print(f"{name}, {half}, behind DRAM, half of the demand\n{draw_dram(beside)}\n", flush=True)
        with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
            written = written_over_admitted(load, options.min_tokens, Path(folder))
        print(f"the store wrote {written:.4f} bytes a byte admitted\n")
    goals = wanted(rows, written)
    print(verdicts(goals))
    write_json(
        options.out,
        {
            "environment": environment,
            "days": options.days,
            "chunk_tokens": options.chunk_tokens,
            "min_tokens": options.min_tokens,
            "loads": loads,
            "rows": [asdict(row) for row in rows],
            "written_over_admitted": written,
            "wanted": goals,
        },
    )
    print(f"written: {options.out}")


def describe_load(trace: str, half: str, load: Load) -> dict[str, Any]:
    """What a load is, for the JSON."""
    return {
        "trace": trace,
        "half": half,
        "sessions": len({turn.session for turn in load.turns}),
        "turns": len(load.turns),
        "days": round(load.days, 2),
        "demanded_tokens": load.demanded * load.chunk_tokens,
        "reused_tokens": sum(load.reads.values()) * load.chunk_tokens,
    }


def _told(load: dict[str, Any]) -> str:
    return (
        f"{load['sessions']} sessions, {load['turns']:,} turns in {load['days']} days; "
        f"{load['demanded_tokens']:,} tokens to write, {load['reused_tokens']:,} read again"
    )


if __name__ == "__main__":
    main()
