"""How much of what is reused is in device or DRAM when it is asked for, against how much room there
is: recorded coding agents in a closed loop, simulated (``load/simulate``) with Valet's policies,
with what others do, and with an offline optimum.

The grid: users, room, SSD bandwidth, KV bytes a token. *Live KV* is that of the sessions that users
have open, on average over time in a run in which everything fits; room is a share of that. It is
all the memory there is above the SSD: what runs is in it, too, and cannot go, and requests wait
until it has room for them (one alone never waits). 256 users have four engines' worth of computing,
so that where everything fits none is short of it.

*Hot* is the share of reusable tokens that were on the device or in DRAM when the scheduler asked;
the others were *late*, loaded while the request waited, or *recomputed*.
"""

import argparse
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from load.environment import describe
from load.report import table, verdict, write_json
from load.server import REPOSITORY
from load.simulate.grid import Cell, Grid, Result, live_tokens
from load.simulate.roster import Name
from load.traces import find_traces

USERS: Final = (16, 64, 256)
SHARES: Final = (0.01, 0.02, 0.05, 0.08, 0.12, 0.25, 0.5)
SHARE: Final = 0.12
"""The room that figures are wanted for."""
SSD_GB_S: Final = (1, 3, 12)
KV_BYTES: Final = (23_000, 160_000)
TURNS: Final = {16: 3000, 64: 4000, 256: 5000}
QUICK_TURNS: Final = {16: 800, 64: 1200}
QUICK_SHARES: Final = (0.05, 0.12, 0.5)
WANTED_HOT: Final = 0.98
WANTED_NEAR: Final = 0.01
WANTED_FEWER: Final = 2.0
COUNTS: Final = 0.02
"""Of LRU's late or recomputed tokens: below, there is nothing to be saved."""
SHORT: Final = {
    Name.LRU: "LRU",
    Name.ARC: "ARC",
    Name.S3_FIFO: "S3-FIFO",
    Name.TTL: "TTL",
    Name.LRU_EARLY: "LRU early",
    Name.VALET: "Valet",
    Name.INFORMED: "informed",
    Name.OPTIMUM: "optimum",
}


Place = tuple[int, int, int]
"""Users, SSD GB/s, KV bytes a token."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Valet in one place with one room."""

    users: int
    share: float
    ssd_gb_s: int
    kv_bytes: int
    hot_enough: bool | None
    """Wanted at ``SHARE``; None elsewhere."""
    fewer_missed: bool | None
    """None where LRU misses too little."""
    reason: str
    """Why something is missed; empty where nothing is."""


def cells(
    live: Mapping[int, float], turns: Mapping[int, int], shares: Sequence[float]
) -> list[Cell]:
    """The grid, those that take longest first. Who is told how gaps are distributed is asked only
    at the room that figures are wanted for."""
    slow = (Name.INFORMED, Name.VALET, Name.OPTIMUM)
    return [
        Cell(users, share, ssd_gb_s, kv_bytes, policy, turns[users], live[users])
        for policy in (*slow, *(name for name in Name if name not in slow))
        for users in sorted(live, reverse=True)
        for share in shares
        for ssd_gb_s in SSD_GB_S
        for kv_bytes in KV_BYTES
        if policy is not Name.INFORMED or share == SHARE
    ]


class Results:
    """By place, room and policy."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = {(self.place(r.cell), r.cell.share, r.cell.policy): r for r in results}
        self.places = sorted({place for place, _, _ in self._results})
        self.shares = sorted({share for _, share, _ in self._results})

    @staticmethod
    def place(cell: Cell) -> Place:
        return cell.users, cell.ssd_gb_s, cell.kv_bytes

    def get(self, place: Place, share: float, policy: Name) -> Result | None:
        return self._results.get((place, share, policy))

    def hot(self, place: Place, share: float, policy: Name) -> str:
        """For a table."""
        result = self.get(place, share, policy)
        return "–" if result is None else f"{100 * result.hot:.1f}"


def judge(results: Results) -> list[Judged]:
    """Every place with every room in which Valet, LRU and the optimum have run."""
    judged = []
    for place in results.places:
        for share in results.shares:
            valet, lru, best = (
                results.get(place, share, name) for name in (Name.VALET, Name.LRU, Name.OPTIMUM)
            )
            if valet is None or lru is None or best is None:
                continue
            hot = fewer = None
            reasons = []
            if share == SHARE:
                hot = valet.hot >= min(WANTED_HOT, best.hot - WANTED_NEAR)
            if hot is False:
                reasons.append(_why_not_hot(results.get(place, share, Name.INFORMED), best))
            if lru.missed > COUNTS:
                fewer = WANTED_FEWER * valet.missed <= lru.missed
            if fewer is False and WANTED_FEWER * best.missed > lru.missed:
                reasons.append("nor has the optimum half as many")
            users, ssd_gb_s, kv_bytes = place
            reason = "; ".join(filter(None, reasons))
            judged.append(Judged(users, share, ssd_gb_s, kv_bytes, hot, fewer, reason))
    return judged


def _why_not_hot(informed: Result | None, best: Result) -> str:
    if informed is None:
        return ""
    known = f"told how gaps are distributed: {100 * informed.hot:.1f}"
    if informed.hot < best.hot - WANTED_NEAR:
        return f"{known}: which gap comes cannot be known"
    return known


def draw_room(results: Results, judged: Sequence[Judged]) -> str:
    """Every policy at ``SHARE``."""
    verdicts = {(j.users, j.ssd_gb_s, j.kv_bytes): j for j in judged if j.share == SHARE}
    rows = []
    for place in results.places:
        users, ssd_gb_s, kv_bytes = place
        at = verdicts.get(place)
        rows.append(
            [
                f"{users} users, {ssd_gb_s} GB/s, {kv_bytes // 1000} KB",
                *(results.hot(place, SHARE, name) for name in Name),
                _missed(results, place),
                verdict(at.hot_enough if at else None),
                _fewer(at),
            ]
        )
    header = ["hot, %", *(SHORT[name] for name in Name), "missed, % LRU → Valet"]
    return table([*header, "hot", "2 × fewer"], rows)


def draw_curve(results: Results) -> str:
    """Hot against room, for LRU, Valet and the optimum."""
    rows = [
        [
            f"{users} users, {ssd} GB/s, {kv // 1000} KB: {SHORT[name]}",
            *(results.hot((users, ssd, kv), share, name) for share in results.shares),
        ]
        for users, ssd, kv in results.places
        for name in (Name.LRU, Name.VALET, Name.OPTIMUM)
    ]
    return table(["hot, %, by room", *(f"{share:.0%}" for share in results.shares)], rows)


def draw_ttft(results: Results) -> str:
    """Time to first token at ``SHARE``."""
    rows = []
    for place in results.places:
        users, ssd_gb_s, kv_bytes = place
        row = [f"{users} users, {ssd_gb_s} GB/s, {kv_bytes // 1000} KB"]
        for name in (Name.LRU, Name.LRU_EARLY, Name.VALET, Name.OPTIMUM):
            result = results.get(place, SHARE, name)
            row.append("–" if result is None else " / ".join(f"{t:.2f}" for t in result.ttft_s))
        rows.append(row)
    names = [SHORT[n] for n in (Name.LRU, Name.LRU_EARLY, Name.VALET, Name.OPTIMUM)]
    return table(["TTFT, s: p50 / p90 / p99", *names], rows)


def _missed(results: Results, place: Place) -> str:
    shares = []
    for name in (Name.LRU, Name.VALET):
        result = results.get(place, SHARE, name)
        shares.append("–" if result is None else f"{100 * result.missed:.1f}")
    return " → ".join(shares)


def _fewer(judged: Judged | None) -> str:
    if judged is None:
        return "–"
    return "nothing missed" if judged.fewer_missed is None else verdict(judged.fewer_missed)


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """How many of the places meet what is wanted."""
    hot = [j.hot_enough for j in judged if j.hot_enough is not None]
    fewer = [j.fewer_missed for j in judged if j.fewer_missed is not None]
    return {
        f"hot at {SHARE:.0%}": {"places": len(hot), "met": sum(hot)},
        "2 × fewer late or recomputed than LRU": {"places": len(fewer), "met": sum(fewer)},
    }


def main() -> None:
    """Run the grid, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns, users and rooms")
    parser.add_argument("--shares", type=float, nargs="+", help="rooms, of all live KV (all)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="keep nothing of an earlier run")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/tiers.json")
    options = parser.parse_args()
    trace = find_traces(os.environ, REPOSITORY).get("claude_code")
    if trace is None:
        raise SystemExit("no trace: VALET_TRACES names the folder of claude_code/dev.jsonl.gz")
    turns = QUICK_TURNS if options.quick else TURNS
    shares = options.shares or (QUICK_SHARES if options.quick else SHARES)
    journal = options.out.with_suffix(".quick.jsonl" if options.quick else ".cells.jsonl")
    if options.fresh:
        journal.unlink(missing_ok=True)
    grid = Grid(trace, journal, REPOSITORY, options.processes)
    began = time.monotonic()
    live = {
        users: live_tokens(users, count, grid.requests, grid.block_tokens)
        for users, count in turns.items()
    }
    for users, tokens in live.items():
        print(f"{users} users: live KV {tokens / 1e6:.2f} M tokens", flush=True)
    wanted = cells(live, turns, shares)
    done = []
    for result in grid.run(wanted):
        done.append(result)
        if len(done) % 50 == 0:
            took_s = time.monotonic() - began
            print(f"{len(done)} of {len(wanted)} runs, {took_s:.0f} s", flush=True)
    results = Results(done)
    judged = judge(results)
    print(f"\n{draw_room(results, judged)}\n\n{draw_curve(results)}\n\n{draw_ttft(results)}\n")
    for missed in judged:
        if missed.reason:
            place = f"{missed.users} users, {missed.ssd_gb_s} GB/s, {missed.kv_bytes // 1000} KB"
            print(f"{place}, {missed.share:.0%}: {missed.reason}")
    for goal, count in summary(judged).items():
        print(f"{goal}: met in {count['met']} of {count['places']} places")
    events, cpu_s = (
        sum(values) for values in zip(*((r.events, r.cpu_s) for r in done), strict=True)
    )
    print(f"{events:,} events in {cpu_s:,.0f} s of one core: {events / cpu_s:,.0f} a second")
    write_json(
        options.out,
        {
            "environment": describe(),
            "live_tokens": live,
            "wanted": summary(judged),
            "judged": [asdict(each) for each in judged],
            "cells": [asdict(each) for each in done],
        },
    )
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
