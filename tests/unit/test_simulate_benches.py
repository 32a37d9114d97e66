"""The benchmarks of simulated tiers: what they run, how they judge, and going on where one was
stopped."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from load import bench_shift, bench_tiers
from load.bench_shift import BEFORE, POLICIES, Run, ShiftingLoop
from load.bench_tiers import SHARE, Results, cells, draw_curve, draw_room, draw_ttft, judge
from load.server import REPOSITORY
from load.simulate.grid import Cell, Grid, Result, engine_for, live_tokens, run
from load.simulate.known_gaps import gaps_of
from load.simulate.roster import Name
from load.simulate.source import Visit
from load.traces import Trace, coding_agents


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Five agents, whose prompts grow by 1,280 tokens a turn."""
    lines = []
    for agent in range(5):
        requests = [
            {
                "t": 60.0 * turn,
                "type": "n",
                "in": 64 * 20 * (turn + 4) + 1,
                "out": 50,
                "stop": "tool_use" if turn % 3 else "end_turn",
                "think_time": 5.0 + 7 * (turn * agent % 5),
                "hash_runs": [[1, 20 * (turn + 4)]],
            }
            for turn in range(12)
        ]
        lines.append(json.dumps({"id": f"agent {agent}", "requests": requests}))
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return coding_agents(path)


def cell(policy: Name = Name.LRU, **changed: Any) -> Cell:
    fields = {"users": 4, "share": 0.5, "ssd_gb_s": 3, "kv_bytes": 160_000, "policy": policy}
    return Cell(**{**fields, "turns": 40, "live_tokens": 60_000.0, **changed})


def result(policy: Name, hot: float, late: float | None = None, **changed: Any) -> Result:
    return Result(
        cell=cell(policy, share=SHARE, **changed),
        hot=hot,
        late=1 - hot if late is None else late,
        recomputed=0.0 if late is None else 1 - hot - late,
        ttft_s=(0.1, 0.2, 0.3),
        turns_per_minute=10.0,
        in_use=0.3,
        prefetch_precision=None,
        prefetch_late=None,
        events=100,
        cpu_s=0.1,
    )


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Name.LRU, Name.VALET, Name.OPTIMUM])
def test_a_cell_is_run(trace: Trace, policy: Name) -> None:
    requests = tuple(trace)
    gaps = gaps_of(requests)
    done = run(cell(policy), requests, trace.block_tokens, gaps)
    assert done.hot + done.missed == pytest.approx(1.0)
    assert done.events > 40
    assert replace(done, cpu_s=0.0) == replace(
        run(cell(policy), requests, trace.block_tokens, gaps), cpu_s=0.0
    )


def test_live_tokens_are_those_of_the_users_sessions(trace: Trace) -> None:
    tokens = live_tokens(4, 80, tuple(trace), trace.block_tokens)
    assert 4 * 64 * 20 * 4 < tokens < 4 * 64 * 20 * 16


def test_many_users_have_more_engines() -> None:
    assert engine_for(16) == engine_for(64)
    assert engine_for(256).prefill(0, 1000) == pytest.approx(engine_for(64).prefill(0, 1000) / 4)


def test_what_was_done_is_not_done_again(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "out/cells.jsonl"
    both = [cell(Name.LRU), cell(Name.ARC)]
    first = list(Grid(trace, journal, REPOSITORY, 1).run(both[:1]))
    torn = journal.read_text() + '{"cell": {"us'
    journal.write_text(torn)
    second = list(Grid(trace, journal, REPOSITORY, 1).run(both))
    assert second[0] == first[0]
    assert {each.cell for each in second} == set(both)
    assert list(Grid(trace, journal, REPOSITORY, 1).run(both)) == second

    def other(_: Path) -> list[Path]:
        return [trace.path]

    monkeypatch.setattr("load.simulate.grid._code", other)
    assert list(Grid(trace, journal, REPOSITORY, 1)._kept()) == []


# --- tiers ---------------------------------------------------------------------------------------


def judged(valet: Result, lru: Result, best: Result, *more: Result) -> bench_tiers.Judged:
    (verdict,) = judge(Results([valet, lru, best, *more]))
    return verdict


@pytest.mark.parametrize(
    ("hot", "best", "met"),
    [(0.985, 1.0, True), (0.97, 0.99, False), (0.70, 0.705, True), (0.70, 0.72, False)],
)
def test_hot_enough_is_98_or_near_the_optimum(hot: float, best: float, met: bool) -> None:
    verdict = judged(result(Name.VALET, hot), result(Name.LRU, 0.1), result(Name.OPTIMUM, best))
    assert verdict.hot_enough is met


def test_half_as_many_missed_as_lru_are_wanted_where_it_misses_some() -> None:
    def fewer(valet: float, lru: float) -> bool | None:
        best = result(Name.OPTIMUM, 1.0)
        return judged(result(Name.VALET, valet), result(Name.LRU, lru), best).fewer_missed

    assert fewer(0.9, 0.8) is True
    assert fewer(0.89, 0.8) is False
    assert fewer(0.97, 0.985) is None


def test_why_something_is_missed_is_said() -> None:
    lru, valet = result(Name.LRU, 0.6), result(Name.VALET, 0.7)
    best = result(Name.OPTIMUM, 0.75)
    assert judged(valet, lru, best).reason == "nor has the optimum half as many"
    best = result(Name.OPTIMUM, 0.9)
    told = judged(valet, lru, best, result(Name.INFORMED, 0.71)).reason
    assert told == "told how gaps are distributed: 71.0: which gap comes cannot be known"
    near = judged(valet, lru, best, result(Name.INFORMED, 0.895)).reason
    assert near == "told how gaps are distributed: 89.5"


def test_the_grid_has_every_policy_everywhere_and_who_is_told_at_one_room() -> None:
    made = cells({16: 1e6, 64: 4e6}, {16: 10, 64: 20}, (0.05, SHARE))
    assert len(set(made)) == len(made) == 2 * 2 * 6 * 7 + 2 * 6
    assert {each.share for each in made if each.policy is Name.INFORMED} == {SHARE}
    assert {each.live_tokens for each in made if each.users == 64} == {4e6}


def test_tables_show_what_was_measured() -> None:
    results = Results(
        [result(name, 0.5 + 0.05 * n) for n, name in enumerate(Name)]
        + [result(Name.VALET, 0.3, users=16)]
    )
    verdicts = judge(results)
    assert len(verdicts) == 1
    room = draw_room(results, verdicts).splitlines()
    assert len(room) == 4
    assert "50.0" in room[2]
    assert "–" in room[3]
    assert "2 × fewer" in room[0]
    assert len(draw_curve(results).splitlines()) == 2 + 2 * 3
    assert "0.10 / 0.20 / 0.30" in draw_ttft(results)
    assert bench_tiers.summary(verdicts)[f"hot at {SHARE:.0%}"]["places"] == 1


# --- shifts --------------------------------------------------------------------------------------


def runs(valet: Callable[[int], int], told: int = 80, lru: int = 60) -> list[Run]:
    """Hot tokens of 100 in each window, by window."""
    count = BEFORE + 15
    made = {Name.VALET: valet, Name.INFORMED: lambda _: told, Name.LRU: lambda _: lru}
    return [
        Run(name, seed, (100,) * count, tuple(of(n - BEFORE) for n in range(count)), None)
        for seed in (0, 1)
        for name, of in made.items()
    ]


def test_back_and_never_worse_are_judged() -> None:
    assert list(bench_shift.judge(runs(lambda _: 79)).values()) == [True, True]
    # The first two windows may be worse than usual, but not than LRU.
    assert list(bench_shift.judge(runs(lambda n: 79 if n > 1 else 61)).values()) == [True, True]
    assert list(bench_shift.judge(runs(lambda n: 79 if n > 1 else 59)).values()) == [True, False]
    assert list(bench_shift.judge(runs(lambda _: 77)).values()) == [False, True]


def test_windows_lie_around_the_shift() -> None:
    by_turn = [1] * bench_shift.SHIFT_AT + [2] * bench_shift.AFTER
    sums = bench_shift.windows(by_turn)
    assert sums[:BEFORE] == (bench_shift.WINDOW,) * BEFORE
    assert sums[BEFORE:] == (2 * bench_shift.WINDOW,) * (bench_shift.AFTER // bench_shift.WINDOW)
    drawn = bench_shift.draw(runs(lambda _: 79))
    assert "-500 …" in drawn
    assert "79.0" in drawn
    assert all(str(policy) in drawn for policy in POLICIES)


def test_a_loop_shifts_after_so_many_turns() -> None:
    shifted: list[int] = []
    loop = ShiftingLoop(3, 1, 40, lambda: shifted.append(1))
    waiting: list[tuple[float, int, Visit]] = [
        (at, n, visit) for n, (at, visit) in enumerate(loop.begin())
    ]
    assert len(waiting) == 3
    gaps: list[float] = []
    for turn in range(400):
        waiting.sort(key=lambda each: each[:2])
        now, _, visit = waiting.pop(0)
        for at, following in loop.answered(visit, now):
            gaps.append(at - now)
            waiting.append((at, turn + 3, following))
        assert len(shifted) == (turn >= 39)
    assert len(gaps) == 400
    # Coding agents are slow for hours at a time, customers for minutes.
    assert max(gaps[100:]) < 1500
