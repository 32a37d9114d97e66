"""A grid of simulated runs of one trace: what a cell is, what it gives, and doing many of them.

What is done is kept in a file, a line a cell, so that a run that was stopped goes on where it was;
results of other code or of another trace are not taken.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from load.simulate.known_gaps import GapCurves, gaps_of
from load.simulate.model import EngineModel, Hardware, SimulationConfig
from load.simulate.outcome import Outcome
from load.simulate.roster import Name, contender
from load.simulate.simulation import Simulation
from load.simulate.source import ClosedLoop
from load.traces import Request, Trace

WARM_UP: Final = 0.25
"""Of the turns."""
PLAN_EVERY_S: Final = 2.0
"""Longer than the engine lets pass, for plans are most of a run. It costs Valet a point at 12 % of
live KV (64 users, 3 GB/s, 23 KB; against 0.05 s), and nothing at 25 and 50 %."""
USERS_AN_ENGINE: Final = 64


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid."""

    users: int
    share: float
    ssd_gb_s: int
    kv_bytes: int
    policy: Name
    turns: int
    live_tokens: float


@dataclass(frozen=True, slots=True)
class Result:
    """What it gave. Shares are of the reusable tokens."""

    cell: Cell
    hot: float
    late: float
    recomputed: float
    ttft_s: tuple[float, float, float]
    """At the median, and what 90 and 99 of 100 do not pass."""
    turns_per_minute: float
    in_use: float
    """Of the room, what running requests took on average."""
    prefetch_precision: float | None
    prefetch_late: float | None
    """Of the returns of sessions of which something had been prefetched."""
    events: int
    cpu_s: float

    @property
    def missed(self) -> float:
        """Late or recomputed."""
        return self.late + self.recomputed


def engine_for(users: int) -> EngineModel:
    """Four engines' worth of computing for 256 users."""
    engine = EngineModel()
    share = min(1.0, USERS_AN_ENGINE / users)
    return replace(
        engine,
        prefill_s=engine.prefill_s * share,
        prefill_s_per_position=engine.prefill_s_per_position * share,
    )


def run(cell: Cell, requests: Sequence[Request], block_tokens: int, gaps: GapCurves) -> Result:
    """One cell, from an empty DRAM."""
    room = cell.share * cell.live_tokens * cell.kv_bytes
    hardware = Hardware(
        dram_bytes=room,
        device_bytes=room,
        ssd_bandwidth=cell.ssd_gb_s * 1e9,
        kv_bytes=cell.kv_bytes,
    )
    engine = engine_for(cell.users)
    made = contender(cell.policy, engine, hardware, gaps)
    config = SimulationConfig(
        engine=engine,
        hardware=hardware,
        turns=cell.turns,
        warm_up_turns=int(WARM_UP * cell.turns),
        load_at=made.load_at,
        plan_every_s=PLAN_EVERY_S,
    )
    began = time.process_time()
    source = ClosedLoop(requests, cell.users)
    outcome = Simulation(config, block_tokens, source, made.policies).run()
    return _result(cell, hardware, outcome, time.process_time() - began)


def _result(cell: Cell, hardware: Hardware, outcome: Outcome, cpu_s: float) -> Result:
    steady, prefetching = outcome.steady, outcome.prefetching
    reusable = max(1, steady.reusable_tokens)
    late = prefetching.late_returns / prefetching.returns if prefetching.returns else None
    return Result(
        cell=cell,
        hot=steady.hot_share,
        late=steady.late_tokens / reusable,
        recomputed=steady.recomputed_tokens / reusable,
        ttft_s=steady.ttft_s,
        turns_per_minute=steady.turns_per_minute,
        in_use=steady.in_use_tokens * hardware.kv_bytes / hardware.dram_bytes,
        prefetch_precision=prefetching.precision,
        prefetch_late=late,
        events=outcome.events,
        cpu_s=cpu_s,
    )


def live_tokens(users: int, turns: int, requests: Sequence[Request], block_tokens: int) -> float:
    """Of the sessions that users have open, on average over a run in which everything fits."""
    config = SimulationConfig(
        engine=engine_for(users), turns=turns, warm_up_turns=int(WARM_UP * turns)
    )
    made = contender(Name.LRU, config.engine, config.hardware)
    source = ClosedLoop(requests, users)
    return Simulation(config, block_tokens, source, made.policies).run().steady.live_tokens


class Grid:
    """Runs cells of one trace in several processes."""

    def __init__(self, trace: Trace, journal: Path, repository: Path, processes: int) -> None:
        """``journal``: where results are kept. One process is this one."""
        self.requests = tuple(trace)
        self.block_tokens = trace.block_tokens
        self._journal = journal
        self._processes = processes
        self._made_by = {"made_by": _digest([trace.path, *_code(repository)])}

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Those that were kept first, the others in the order in which they are done."""
        kept = {result.cell: result for result in self._kept()}
        yield from (kept[cell] for cell in cells if cell in kept)
        left = [cell for cell in cells if cell not in kept]
        if not left:
            return
        self._rewrite(kept.values())
        with self._journal.open("a", encoding="utf-8") as journal:
            for result in self._do(left):
                journal.write(json.dumps(asdict(result)) + "\n")
                journal.flush()
                yield result

    def _do(self, cells: Sequence[Cell]) -> Iterator[Result]:
        if self._processes == 1:
            _prepare(self.requests, self.block_tokens)
            yield from map(_run, cells)
            return
        process = multiprocessing.get_context("spawn")
        with process.Pool(self._processes, _prepare, (self.requests, self.block_tokens)) as pool:
            yield from pool.imap_unordered(_run, cells)

    def _rewrite(self, results: Iterable[Result]) -> None:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        lines = [self._made_by, *(asdict(result) for result in results)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._journal.write_text(text, encoding="utf-8")

    def _kept(self) -> Iterator[Result]:
        if not self._journal.is_file():
            return
        lines = self._journal.read_text(encoding="utf-8").splitlines()
        try:
            if lines and json.loads(lines[0]) == self._made_by:
                for line in lines[1:]:
                    yield _result_of(json.loads(line))
        except ValueError:
            return  # It was stopped in the middle of a line; those before it count.


def _code(repository: Path) -> list[Path]:
    """All that a result depends on."""
    folders = [repository / folder for folder in ("load/simulate", "cache_tiers")]
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _result_of(kept: dict[str, Any]) -> Result:
    cell = kept.pop("cell")
    policy = Name(cell.pop("policy"))
    p50, p90, p99 = kept.pop("ttft_s")
    return Result(cell=Cell(policy=policy, **cell), ttft_s=(p50, p90, p99), **kept)


class _Process:
    """What a process of the pool runs cells with."""

    requests: tuple[Request, ...] = ()
    block_tokens = 1
    gaps: GapCurves = gaps_of(())


def _prepare(requests: tuple[Request, ...], block_tokens: int) -> None:
    _Process.requests, _Process.block_tokens = requests, block_tokens
    _Process.gaps = gaps_of(requests)


def _run(cell: Cell) -> Result:
    return run(cell, _Process.requests, _Process.block_tokens, _Process.gaps)
