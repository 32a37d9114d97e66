"""Recorded requests: read from made-up files, and replayed; the real ones where they are."""

import gzip
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cache_tiers.endurance.admission import Admission, AdmissionConfig
from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.memory_store import MemoryStore
from cache_tiers.returns.types import Awaits
from load.bench_endurance import BOUND, SHARES, Row, draw, draw_dram, measure, wanted
from load.replay_writes import (
    Admitted,
    AtRandom,
    Clock,
    FirstCome,
    Foresight,
    Load,
    best_possible,
    make_load,
    replay,
)
from load.server import REPOSITORY
from load.traces import Request, coding_agents, find_traces, mooncake, own, own_requests

CHUNK = 16


def write(path: Path, lines: Iterable[Any]) -> Path:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def asked(at_s: float, tokens: int, *runs: list[int]) -> dict[str, Any]:
    return {"t": at_s, "type": "n", "in": tokens, "out": 9, "hash_runs": list(runs)}


def agent(name: str, *requests: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "block_size": 64, "hash_id_scope": "local", "requests": list(requests)}


SUBAGENT = {
    "t": 100.0,
    "type": "subagent",
    "agent_id": "explore",
    "requests": [asked(5.0, 128, [7, 2])],
}


def test_agents_and_their_subagents(tmp_path: Path) -> None:
    session = agent("a", asked(0, 200, [1, 3]), SUBAGENT, asked(300.5, 330, [1, 2], [9, 3]))
    trace = coding_agents(write(tmp_path / "t.jsonl.gz", [session]))
    person = Awaits.PERSON
    assert list(trace) == [
        Request("a", 0.0, 200, 9, "a", ((1, 3),), awaits=person),
        Request("a/explore", 105.0, 128, 9, "a", ((7, 2),), 100.0, person, parent="a"),
        Request("a", 300.5, 330, 9, "a", ((1, 2), (9, 3)), awaits=person),
    ]
    assert list(trace) == list(trace)
    assert trace.skipped == 0


def test_blocks_have_their_scope(tmp_path: Path) -> None:
    trace = coding_agents(write(tmp_path / "t.jsonl", [agent("a", asked(0, 200, [1, 2], [9, 1]))]))
    (request,) = trace
    assert list(request.blocks()) == [("a", 1), ("a", 2), ("a", 9)]


def test_a_block_that_is_not_full_does_not_count(tmp_path: Path) -> None:
    trace = coding_agents(write(tmp_path / "t.jsonl", [agent("a", asked(0, 191, [1, 2], [9, 1]))]))
    assert [request.runs for request in trace] == [((1, 2),)]


def test_blocks_one_by_one(tmp_path: Path) -> None:
    request = {"t": 0, "type": "s", "in": 256, "out": 1, "hash_ids": [4, 5, 6, 2]}
    trace = coding_agents(write(tmp_path / "t.jsonl", [agent("a", request)]))
    assert [r.runs for r in trace] == [((4, 3), (2, 1))]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        "7",
        {"id": "b"},
        {"id": "b", "requests": [{"t": 0}]},
        {"id": "b", "requests": [{"t": 0, "type": "n", "in": 1, "out": 1, "hash_runs": [1]}]},
        {"id": "b", "requests": [], "block_size": 32},
        {"id": "b", "requests": 5},
        "[" * 10_000,
        agent("b", asked(-1, 64, [1, 1])),
        agent("b", asked(math.nan, 64, [1, 1])),
        agent("b", asked(0, 64, [1, 1]), asked(math.inf, 64, [1, 1])),
        agent("b", asked(0, -64, [1, 1])),
        agent("b", asked(0, 10**9, [1, 1])),
        agent("b", asked(0, 64, [1, -1])),
        agent("b", asked(0, 64, [math.inf, 1])),
        agent("b", asked(0, 64, [1, 1]) | {"out": -1}),
        agent("b", asked(0, 64, [1, 1]) | {"think_time": -0.5}),
        agent("b", asked(0, 64, [1, 1]) | {"think_time": math.nan}),
        agent("b", asked(0, 64, [1, 1]) | {"api_time": -1.0}),
        agent("b", SUBAGENT | {"duration_ms": math.inf}),
        agent("b", SUBAGENT | {"requests": [asked(5.0, 128, [7, 2]), asked(-5.0, 128, [7, 2])]}),
    ],
)
def test_lines_of_another_form_are_skipped(tmp_path: Path, bad: Any) -> None:
    good = agent("a", asked(0, 64, [1, 1]))
    trace = coding_agents(write(tmp_path / "t.jsonl", [good, bad, good]))
    assert [request.session for request in trace] == ["a", "a"]
    assert trace.skipped == 1


def test_a_torn_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl.gz", [agent(str(n), asked(n, 64, [n, 1])) for n in range(999)])
    path.write_bytes(path.read_bytes()[:-200])
    trace = coding_agents(path)
    names = [request.session for request in trace]
    assert 0 < len(names) < 999
    assert names == [str(n) for n in range(len(names))]
    assert trace.skipped == 1


def arrival(at_ms: int, tokens: int, *blocks: int) -> dict[str, Any]:
    return {"timestamp": at_ms, "input_length": tokens, "output_length": 3, "hash_ids": blocks}


def test_a_prompt_that_continues_another_is_its_next_turn(tmp_path: Path) -> None:
    lines = [
        arrival(0, 1100, 1, 2, 90),
        arrival(500, 1024, 1, 3),
        arrival(900, 2048, 1, 2, 4, 5),
        arrival(1000, 2600, 1, 2, 4, 5, 6, 91),
        arrival(2000, 30, 92),
    ]
    trace = mooncake(write(tmp_path / "m.jsonl", lines))
    first, second, third, fourth, fifth = trace
    assert first.session == third.session == fourth.session
    assert len({first.session, second.session, fifth.session}) == 3
    assert (fourth.at_s, fourth.runs, fourth.scope) == (1.0, ((1, 2), (4, 3)), "")
    assert fifth.runs == ()


@pytest.mark.parametrize(
    "bad",
    [
        arrival(-1, 512, 1),
        arrival(0, -512, 1),
        arrival(0, 512, 1) | {"timestamp": math.nan},
        arrival(0, 512, 1) | {"timestamp": 10**400},
        arrival(0, 512, 1) | {"input_length": math.inf},
        arrival(0, 512, 1) | {"output_length": -3},
    ],
)
def test_arrivals_of_no_time_or_length_are_skipped(tmp_path: Path, bad: Any) -> None:
    trace = mooncake(write(tmp_path / "m.jsonl", [arrival(0, 512, 1), bad, arrival(9, 1024, 1, 2)]))
    first, second = trace
    assert first.session == second.session
    assert trace.skipped == 1


def test_only_traces_that_are_there_are_found(tmp_path: Path) -> None:
    assert find_traces({"VALET_TRACES": str(tmp_path)}, REPOSITORY) == {}
    (tmp_path / "mooncake").mkdir()
    write(tmp_path / "mooncake/synthetic_trace.jsonl.gz", [arrival(0, 512, 1)])
    found = find_traces({"VALET_TRACES": str(tmp_path)}, REPOSITORY)
    assert [len(list(found[name])) for name in found] == [1]


# --- gaps, and what is waited for ----------------------------------------------------------------


def test_gaps_are_those_of_the_client_and_what_is_awaited_that_of_the_answer(
    tmp_path: Path,
) -> None:
    session = agent(
        "a",
        {**asked(0, 64, [1, 1]), "think_time": 0.0, "stop": "tool_use", "api_time": 4.0},
        {**asked(13, 128, [1, 2]), "think_time": 9.0, "stop": "end_turn"},
        {**asked(50, 192, [1, 3]), "stop": ""},
    )
    requests = list(coding_agents(write(tmp_path / "t.jsonl", [session])))
    assert [request.gap_s for request in requests] == [0.0, 9.0, None]
    assert [request.awaits for request in requests] == ["tool", "person", "person"]


def test_a_subagent_begins_so_long_after_its_callers_answer_and_ends_when_it_says(
    tmp_path: Path,
) -> None:
    called = {**SUBAGENT, "t": 100.0, "duration_ms": 90_000}
    first = {**asked(2, 64, [1, 1]), "api_time": 5.0, "think_time": 0.0}
    trace = coding_agents(write(tmp_path / "t.jsonl", [agent("a", first, called)]))
    _, child = trace
    assert (child.at_s, child.gap_s, child.parent) == (15.0, 3.0, "a")


def test_runs_are_as_few_as_can_be(tmp_path: Path) -> None:
    session = agent("a", asked(0, 64 * 9, [1, 3], [4, 2], [6, 0], [6, 1], [9, 3]))
    (request,) = coding_agents(write(tmp_path / "t.jsonl", [session]))
    assert request.runs == ((1, 6), (9, 3))


# --- Valet's own format --------------------------------------------------------------------------


def said(session: str, prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {"session": session, "prompt": prompt, "output": output, **more}


def test_a_prompt_is_what_was_there_and_what_is_new(tmp_path: Path) -> None:
    lines = [
        said("a", 100, 10, at=5.0, awaits="tool", tool="look"),
        said("b", 50, 5, at=6, awaits="person"),
        said("a", 150, 20, gap_s=2.5),
    ]
    trace = own(write(tmp_path / "t.jsonl", lines))
    a, b, again = trace
    assert list(trace) == [a, b, again]
    assert (trace.block_tokens, trace.skipped) == (1, 0)
    assert (a.runs, a.answer_runs) == (((0, 100),), ((100, 10),))
    assert (b.runs, b.answer_runs) == (((110, 50),), ((160, 5),))
    assert again.runs == ((0, 110), (165, 40))
    assert (a.at_s, a.gap_s, a.awaits, a.tool) == (5.0, None, "tool", "look")
    assert (b.awaits, again.gap_s, again.tool) == ("person", 2.5, "")


def test_a_history_is_rewritten_from_where_it_is_kept(tmp_path: Path) -> None:
    lines = [said("a", 100, 10), said("a", 60, 5, keeps=40), said("a", 70, 5)]
    _, second, third = own(write(tmp_path / "t.jsonl", lines))
    assert second.runs == ((0, 40), (110, 20))
    assert third.runs == ((0, 40), (110, 30))


def test_a_shorter_prompt_keeps_what_it_has_room_for(tmp_path: Path) -> None:
    _, second = own(write(tmp_path / "t.jsonl", [said("a", 100, 10), said("a", 30, 5)]))
    assert second.runs == ((0, 30),)


def test_sessions_begin_with_what_they_share(tmp_path: Path) -> None:
    lines = [
        said("a", 100, 1, shared=["tools", 40]),
        said("b", 100, 1, shared=["tools", 30]),
        said("c", 100, 1, shared=["others", 30]),
        said("d", 100, 1, shared=["tools", 60]),
    ]
    a, b, c, d = own(write(tmp_path / "t.jsonl", lines))

    def common(one: Request, other: Request) -> int:
        return sum(mine == its for mine, its in zip(one.blocks(), other.blocks(), strict=True))

    assert (common(a, b), common(a, c), common(a, d)) == (30, 0, 40)
    assert all(sum(count for _, count in request.runs) == 100 for request in (a, b, c, d))


@pytest.mark.parametrize(
    "bad",
    [
        "[]",
        {"session": "b", "prompt": 1},
        said("b", 0, 1),
        said("b", 5, -1),
        said("b", 5, 1, awaits="nobody"),
        said("b", 5, 1, shared=["x"]),
        said("b", 5, 1, gap_s="long"),
        said("b", 5, 1, gap_s=-50),
        said("b", 5, 1, gap_s=math.nan),
        said("b", 5, 1, gap_s=math.inf),
        said("b", 5, 1, gap_s=1e300),
        said("b", 5, 1, at=-1.0),
        said("b", 5, 1, at=10**400),
        said("b", 10**9, 1),
        said("b", 5, 10**9),
        said("b", 5, 1) | {"prompt": math.inf},
        said("b", 5, 1, keeps=-1),
        said("b", 5, 1, shared=["x", -1]),
    ],
)
def test_lines_that_are_not_in_valets_format_are_skipped(tmp_path: Path, bad: Any) -> None:
    good = said("a", 5, 1)
    trace = own(write(tmp_path / "t.jsonl", [good, bad, good]))
    assert [request.session for request in trace] == ["a", "a"]
    assert trace.skipped == 1


def test_lines_need_no_file() -> None:
    made = list(own_requests([said("a", 5, 1), said("a", 9, 1)]))
    assert [request.input_tokens for request in made] == [5, 9]
    with pytest.raises(KeyError):
        list(own_requests([{"prompt": 5}]))


def test_real_traces_where_they_are() -> None:
    """None on a machine without them, and then there is nothing to hold against."""
    for trace in find_traces(os.environ, REPOSITORY).values():
        requests = list(trace)
        assert trace.skipped == 0
        assert len(requests) > 1000
        for request in requests:
            blocks = sum(count for _, count in request.runs)
            assert blocks <= request.input_tokens // trace.block_tokens


# --- loads and their replay ----------------------------------------------------------------------


def load_of(tmp_path: Path, sessions: Iterable[Any], half: int = 0, days: float = 1.0) -> Load:
    trace = coding_agents(write(tmp_path / "t.jsonl", sessions))
    return make_load(trace, half, days, chunk_tokens=128, least_tokens=128)


def agents(count: int, turns: int = 6) -> list[dict[str, Any]]:
    """Each grows by a chunk a turn; every third comes once."""
    return [
        agent(
            f"agent {n}",
            *[asked(60.0 * t, 512 + 128 * t, [1, 8 + 2 * t]) for t in range(turns if n % 3 else 1)],
        )
        for n in range(count)
    ]


def test_halves_are_disjoint_and_whole(tmp_path: Path) -> None:
    halves = [load_of(tmp_path, agents(40), half) for half in (0, 1)]
    names = [{turn.session for turn in load.turns} for load in halves]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 40
    assert min(map(len, names)) > 10


def test_a_load_knows_what_comes_again(tmp_path: Path) -> None:
    rewritten = agent(
        "agent 2",
        asked(0, 512, [1, 8]),
        asked(60, 640, [1, 4], [50, 6]),
        asked(120, 100, [1, 1]),
    )
    both = [load_of(tmp_path, [rewritten], half) for half in (0, 1)]
    (load,) = [load for load in both if load.turns]
    first, second = load.turns
    assert (len(first.chain), len(second.chain)) == (4, 5)
    assert (first.kept, second.kept, second.shared) == (0, 2, 0)
    assert first.chain[:2] == second.chain[:2]
    assert load.demanded == 7
    assert sum(load.reads.values()) == 2
    assert load.days == pytest.approx(60 / 86_400)


def test_a_chunk_is_whole_blocks(tmp_path: Path) -> None:
    trace = coding_agents(write(tmp_path / "t.jsonl", agents(2)))
    with pytest.raises(ValueError, match="multiple of 64"):
        make_load(trace, 0, 1.0, chunk_tokens=100, least_tokens=0)


def test_subagents_of_one_session_share(tmp_path: Path) -> None:
    session = agent("a", asked(0, 256, [1, 4]), {**SUBAGENT, "requests": [asked(5, 256, [1, 4])]})
    both = [load_of(tmp_path, [session], half) for half in (0, 1)]
    (load,) = [load for load in both if load.turns]
    assert [turn.shared for turn in load.turns] == [0, 2]
    assert [turn.kept for turn in load.turns] == [0, 0]


def budgeted(load: Load, share: float, clock: Clock) -> WriteBudget:
    return WriteBudget(load.bytes_per_day(share, CHUNK), clock)


def test_without_a_budget_everything_is_read_back(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(30))
    store = MemoryStore(CHUNK, 2**30)
    done = replay(load, FirstCome(), store, Clock())
    assert done.from_store == done.reused == sum(load.reads.values())
    assert done.admitted == load.demanded == store.stats().chunks
    assert done.cost_saved == done.reused * load.chunk_tokens


def test_dram_serves_what_was_used_last(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(30))
    all_of_it = replay(load, AtRandom(0.0), MemoryStore(CHUNK, 2**30), Clock(), dram_chunks=10_000)
    assert all_of_it.from_dram == all_of_it.reused == sum(load.reads.values())
    some = replay(load, FirstCome(), MemoryStore(CHUNK, 2**30), Clock(), dram_chunks=6)
    assert some.from_dram > 0
    assert some.from_store > 0
    assert some.reused == sum(load.reads.values())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_no_policy_passes_its_budget_or_the_bound(tmp_path: Path, share: float) -> None:
    load = load_of(tmp_path, agents(60), days=3.0)
    reuse = sum(load.reads.values())
    for make in (
        lambda budget: FirstCome(),
        lambda budget: AtRandom(share),
        lambda budget: Foresight(load, share),
        lambda budget: Admitted(
            Admission(
                AdmissionConfig(chunk_tokens=128, chunk_bytes=CHUNK, min_tokens=128),
                lambda start, end: end - start,
            ),
            budget,
        ),
    ):
        clock = Clock()
        budget = budgeted(load, share, clock)
        done = replay(load, make(budget), MemoryStore(CHUNK, 2**30), clock, budget)
        assert 0 < done.admitted <= share * load.demanded
        assert done.reused <= best_possible(load, share) * reuse


def test_foresight_writes_what_is_read(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(30))
    done = replay(load, Foresight(load, 1.0), MemoryStore(CHUNK, 2**30), Clock())
    assert done.reused == sum(load.reads.values())
    assert done.admitted == sum(reads > 0 for reads in load.reads.values())


def test_a_store_too_small_for_a_load_is_not_measured(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(30))
    with pytest.raises(OSError, match="no room"):
        replay(load, FirstCome(), MemoryStore(CHUNK, CHUNK), Clock())


def test_the_beginning_of_a_load(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(30)).beginning(3)
    assert len(load.turns) == 3
    assert load.demanded == len({key for turn in load.turns for key in turn.chain})


# --- the benchmark's tables ----------------------------------------------------------------------


def test_the_benchmark_draws_what_it_measured(tmp_path: Path) -> None:
    load = load_of(tmp_path, agents(60), days=3.0)
    rows = list(measure("made", "unseen", load, 128))
    assert {row.policy for row in rows if row.budget == 0.5} >= {"admission", BOUND}
    assert all(0 <= row.kept <= 1 for row in rows)
    drawn = draw(rows)
    assert len(drawn.splitlines()) == 2 + len({row.policy for row in rows})
    assert f"kept {SHARES[-1]:.0%}" in drawn
    behind = list(measure("made", "unseen", load, 128, (0.5,), dram_tokens=1024))
    assert "1,024" in draw_dram(behind)
    assert not [row for row in behind if row.policy == BOUND]


def test_figures_that_are_wanted() -> None:
    def row(kept: float, **changed: Any) -> Row:
        fields = {"trace": "x", "half": "unseen", "policy": "admission", "dram_tokens": 0}
        return Row(**{**fields, "budget": 0.5, **changed}, admitted=0.5, kept=kept, store_kept=kept,
                   compute_kept=None)  # fmt: skip

    assert list(wanted([row(0.85)], 1.05).values()) == [True, True]
    assert list(wanted([row(0.84), row(0.9, dram_tokens=8)], 1.06).values()) == [False, False]
    assert list(wanted([row(0.1, half="seen"), row(0.1, budget=0.25)], None).values()) == [None]
