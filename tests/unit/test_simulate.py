"""Whole runs of small loads, with times that can be worked out by hand."""

from dataclasses import replace

import pytest

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.recency import Recency
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import SessionKey
from load.simulate import (
    ClosedLoop,
    EngineModel,
    Hardware,
    LoadAt,
    OpenLoop,
    Outcome,
    Policies,
    Recorded,
    SimulationConfig,
    simulate,
)
from load.simulate.clairvoyant import Clairvoyant
from load.simulate.costs import ModelCosts
from load.simulate.generated import CUSTOMER_SERVICE, lines
from load.simulate.known_gaps import KnownGaps, gaps_of
from load.simulate.roster import Name, contender
from load.traces import Request, Runs, own_requests

ENGINE = EngineModel(
    prefill_s=0.01,
    prefill_s_per_position=0.0,
    step_tokens=1000,
    decode_s=0.1,
    decode_s_per_request=0.0,
    fixed_s=1.0,
    read_s=0.0,
)
"""10 ms a prompt token, 100 ms an answer's, a second from the first byte to the queue."""
HARDWARE = Hardware(ssd_bandwidth=200.0, device_bandwidth=1e9, kv_bytes=1, chunk_tokens=10)
"""Loads 200 tokens a second, twice as fast as it computes."""


def asked(
    session: str, at_s: float, tokens: int, runs: Runs | None = None, scope: str | None = None
) -> Request:
    """One token more than its blocks of ten, and two to answer."""
    chain = ((0, tokens // 10),) if runs is None else runs
    return Request(
        session, at_s, tokens + 1, 2, session if scope is None else scope, chain, None, Awaits.TOOL
    )


def run(
    requests: list[Request],
    dram: float = float("inf"),
    load_at: LoadAt = LoadAt.ASKED,
    policies: Policies | None = None,
    engine: EngineModel = ENGINE,
    **changed: float,
) -> Outcome:
    hardware = replace(HARDWARE, dram_bytes=dram, **changed)
    config = SimulationConfig(engine=engine, hardware=hardware, load_at=load_at)
    return simulate(config, Recorded(requests), policies or Policies(Recency()), block_tokens=10)


def ttft(outcome: Outcome) -> float:
    """Of the slowest."""
    return outcome.steady.ttft_s[2]


# --- where a prompt's KV comes from ---------------------------------------------------------------


def test_a_first_turn_is_computed() -> None:
    outcome = run([asked("a", 0.0, 100)])
    assert outcome.steady.reusable_tokens == 0
    # A second to the queue, 101 tokens, and the decoding of the step.
    assert ttft(outcome) == pytest.approx(1.0 + 1.01 + 0.1)
    assert outcome.simulated_s > 2.1
    assert outcome.turns == 1


def test_what_is_in_dram_is_not_computed_again() -> None:
    outcome = run([asked("a", 0.0, 100), asked("a", 50.0, 150)])
    assert (outcome.steady.reusable_tokens, outcome.steady.dram_tokens) == (100, 100)
    assert outcome.steady.hot_share == 1.0
    assert list(outcome.reusable) == [0, 100]
    assert list(outcome.hot) == [0, 100]


def test_the_last_token_is_always_computed() -> None:
    again = Request("a", 50.0, 100, 2, "a", ((0, 10),))
    outcome = run([asked("a", 0.0, 100), again])
    assert outcome.steady.reusable_tokens == 90


TWO = [asked("a", 0.0, 100), asked("b", 20.0, 100), asked("a", 50.0, 100)]
"""The second displaces the first where there is room for one."""


def test_what_is_on_ssd_is_loaded_while_the_request_waits() -> None:
    outcome = run(TWO, dram=100)
    steady = outcome.steady
    assert (steady.dram_tokens, steady.late_tokens, steady.recomputed_tokens) == (0, 100, 0)
    assert steady.missed_share == 1.0
    assert (outcome.loaded_tokens, outcome.prefetching.fetched_tokens) == (100, 0)


def test_a_load_that_takes_longer_than_computing_is_not_made() -> None:
    outcome = run(TWO, dram=100, ssd_bandwidth=50.0)
    steady = outcome.steady
    assert (steady.dram_tokens, steady.late_tokens, steady.recomputed_tokens) == (0, 0, 100)


def test_what_is_loaded_before_anybody_asks_is_hot() -> None:
    """Half a second of load within the second to the queue."""
    outcome = run(TWO, dram=100, load_at=LoadAt.FIRST_BYTE)
    assert outcome.steady.dram_tokens == 100
    longer = [replace(each, input_tokens=201, runs=((0, 20),)) for each in TWO]
    half = run(longer, dram=200, load_at=LoadAt.FIRST_BYTE, ssd_bandwidth=120.0)
    assert (half.steady.dram_tokens, half.steady.late_tokens) == (120, 80)


WAITS = [
    asked("a", 0.0, 100),
    asked("c", 10.0, 100),
    asked("b", 20.0, 300),
    asked("a", 21.2, 100),
]
"""At the end, b's prompt keeps the engine busy while a waits in the queue."""


def test_waiting_requests_are_loaded_for() -> None:
    in_pieces = replace(ENGINE, step_tokens=100)
    assert run(WAITS, dram=400, engine=in_pieces).steady.hot_share == 0.0
    outcome = run(WAITS, dram=400, load_at=LoadAt.QUEUED, engine=in_pieces)
    assert outcome.steady.hot_share == 1.0


def test_an_engine_hears_nothing_while_it_computes_a_piece() -> None:
    for load_at in (LoadAt.QUEUED, LoadAt.FIRST_BYTE):
        assert run(WAITS, dram=400, load_at=load_at).steady.hot_share == 0.0


def test_nothing_is_loaded_for_who_waits_where_there_is_no_room() -> None:
    assert run(WAITS, dram=300, load_at=LoadAt.FIRST_BYTE).steady.hot_share == 0.0


def test_a_rewritten_history_is_reused_up_to_where_it_changed() -> None:
    rewritten = asked("a", 50.0, 100, runs=((0, 4), (90, 6)))
    outcome = run([asked("a", 0.0, 100), rewritten, asked("a", 90.0, 100, ((0, 4), (90, 6)))])
    assert list(outcome.reusable) == [0, 40, 100]
    assert outcome.steady.hot_share == 1.0


def test_a_prefix_of_another_session_is_reused() -> None:
    outcome = run(
        [
            asked("a", 0.0, 100, ((0, 5), (100, 5)), scope="all"),
            asked("b", 30.0, 100, ((0, 5), (200, 5)), scope="all"),
            asked("c", 60.0, 100, ((0, 5), (300, 5)), scope="other"),
        ]
    )
    assert list(outcome.reusable) == [0, 50, 0]
    assert outcome.steady.dram_tokens == 50


def test_an_answer_that_is_known_is_reused() -> None:
    first = replace(asked("a", 0.0, 100), output_tokens=20, answer_runs=((10, 2),))
    outcome = run([first, asked("a", 50.0, 150)])
    assert list(outcome.reusable) == [0, 120]


def test_a_limited_ssd_forgets() -> None:
    requests = [*TWO[:2], asked("c", 40.0, 100), asked("a", 90.0, 100)]
    policies = Policies(Recency(), ssd=Recency())
    outcome = run(requests, dram=100, policies=policies, ssd_bytes=200)
    assert outcome.steady.recomputed_tokens == 100
    assert run(requests, dram=100).steady.late_tokens == 100


def test_the_device_keeps_what_it_has_room_for() -> None:
    policies = Policies(Recency(), device=Recency())
    outcome = run(
        [asked("a", 0.0, 100), asked("b", 20.0, 100), asked("b", 40.0, 100), asked("a", 60.0, 100)],
        policies=policies,
        device_bytes=130,
    )
    assert (outcome.steady.device_tokens, outcome.steady.dram_tokens) == (130, 70)


# --- the engine -----------------------------------------------------------------------------------


def test_requests_wait_for_room_on_the_device() -> None:
    together = [asked("a", 0.0, 100), asked("b", 0.0, 100)]
    roomy = ttft(run(together))
    assert ttft(run(together, device_bytes=220)) == roomy
    assert ttft(run(together, device_bytes=219)) > roomy
    # One alone always has room.
    assert run([asked("a", 0.0, 100)], device_bytes=10).turns == 1


def test_what_runs_is_not_cut_and_counts() -> None:
    """While b runs it takes all the room: nothing of a is left."""
    outcome = run([asked("a", 0.0, 50), asked("b", 20.0, 200), asked("a", 40.0, 50)], dram=100)
    assert outcome.steady.hot_share == 0.0
    outcome = run([asked("a", 0.0, 50), asked("b", 20.0, 50), asked("a", 40.0, 50)], dram=100)
    assert outcome.steady.hot_share == 1.0


def test_live_and_running_tokens_are_means_over_time() -> None:
    steady = run([asked("a", 0.0, 100), asked("a", 50.0, 100)]).steady
    assert steady.live_tokens == pytest.approx(100, rel=0.05)
    # Two turns of some 1.2 s and 0.2 s in 52 s.
    assert 0 < steady.in_use_tokens < 10


def test_the_warm_up_is_not_counted() -> None:
    requests = [asked("a", 40.0 * n, 100) for n in range(6)]
    config = SimulationConfig(engine=ENGINE, hardware=HARDWARE, turns=5, warm_up_turns=2)
    outcome = simulate(config, Recorded(requests), Policies(Recency()), block_tokens=10)
    assert (outcome.turns, outcome.steady.turns) == (5, 3)
    assert outcome.steady.reusable_tokens == 300
    assert outcome.steady.turns_per_minute == pytest.approx(60 / 40, rel=0.2)


def test_a_chunk_is_whole_blocks() -> None:
    config = SimulationConfig(hardware=replace(HARDWARE, chunk_tokens=25))
    with pytest.raises(ValueError, match="multiple of 10"):
        simulate(config, Recorded([]), Policies(Recency()), block_tokens=10)


def test_who_has_left_is_forgotten_after_a_while() -> None:
    told: list[SessionKey] = []

    class Told(Recency):
        def forget(self, session: SessionKey) -> None:
            told.append(session)
            super().forget(session)

    run([asked("a", 0.0, 100), asked("b", 5.0, 100)], policies=Policies(Told()))
    assert sorted(told) == ["trace/a", "trace/b"]


# --- prefetches -----------------------------------------------------------------------------------


def test_what_is_brought_back_in_time_is_hot_and_counted() -> None:
    knows = Clairvoyant()
    outcome = run(TWO, dram=100, policies=Policies(knows, planner=knows, foresight=knows))
    assert outcome.steady.dram_tokens == 100
    prefetching = outcome.prefetching
    assert (prefetching.fetched_tokens, prefetching.used_tokens) == (100, 100)
    assert (prefetching.precision, prefetching.late_returns) == (1.0, 0)


def test_a_prefetch_that_comes_too_late_is_counted() -> None:
    knows = Clairvoyant()
    policies = Policies(knows, planner=knows, foresight=knows)
    outcome = run([TWO[0], TWO[1], asked("a", 22.5, 100)], dram=100, policies=policies)
    assert 0 < outcome.steady.dram_tokens < 100
    assert (outcome.prefetching.returns, outcome.prefetching.late_returns) == (1, 1)


def test_a_prefetch_that_goes_unused_is_counted() -> None:
    """a is brought back for its next request, which has another prompt."""

    class Misled(Clairvoyant):
        def foresee(self, session: SessionKey, at: float, chunks: int) -> None:
            super().foresee(session, at, 10)

    knows = Misled()
    policies = Policies(knows, planner=knows, foresight=knows)
    rewritten = asked("a", 50.0, 100, runs=((500, 10),))
    outcome = run([TWO[0], TWO[1], rewritten], dram=100, policies=policies)
    assert outcome.prefetching.wasted_tokens == 100
    assert outcome.prefetching.precision == 0.0


def test_returns_are_told_of_every_turn() -> None:
    class Told(EmpiricalReturns):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, int, str]] = []

        def ended(self, end: TurnEnd, now: float) -> None:
            self.seen.append((end.session, end.turn, end.tool))
            super().ended(end, now)

        def returned(self, session: SessionKey, now: float) -> None:
            self.seen.append((session, 0, ""))
            super().returned(session, now)

    returns = Told()
    requests = [replace(asked("a", 0.0, 100), tool="look"), asked("a", 50.0, 100)]
    run(requests, policies=Policies(Recency(), returns=returns))
    a = "trace/a"
    assert returns.seen == [(a, 0, ""), (a, 1, "look"), (a, 0, ""), (a, 2, "")]


# --- generated loads ------------------------------------------------------------------------------


def generated(sessions: int = 12, seed: int = 1) -> list[Request]:
    return list(own_requests(lines(sessions, seed, starts_per_s=0.05)))


def test_generated_sessions_are_the_same_for_a_seed_and_in_the_order_of_time() -> None:
    made = list(lines(8, seed=3))
    assert made == list(lines(8, seed=3)) != list(lines(8, seed=4))
    assert [line["at"] for line in made] == sorted(line["at"] for line in made)
    assert len({line["session"] for line in made}) == 8
    shared = [line for line in made if "shared" in line]
    assert len(shared) == 8


def test_a_generated_prompt_is_what_was_there_and_what_is_new() -> None:
    had: dict[str, int] = {}
    for line in lines(20, seed=5):
        keeps = line.get("keeps", had.get(line["session"], 0))
        assert line["prompt"] > keeps
        had[line["session"]] = line["prompt"] + line["output"]


def test_customers_wait_otherwise() -> None:
    made = [line for line in lines(10, seed=1, gaps=CUSTOMER_SERVICE) if line["gap_s"]]
    persons = sum(line["awaits"] == "person" for line in made) / len(made)
    assert 0.65 < persons < 0.85
    assert max(line["gap_s"] for line in made) < 1500


@pytest.mark.parametrize("name", Name)
def test_every_contender_runs_and_runs_again(name: Name) -> None:
    requests = generated()
    hardware = Hardware(dram_bytes=4e5 * 1000, device_bytes=4e5 * 1000, kv_bytes=1000)
    gaps = gaps_of(requests)

    def once() -> Outcome:
        made = contender(name, EngineModel(), hardware, gaps)
        config = SimulationConfig(
            hardware=hardware, turns=150, warm_up_turns=30, load_at=made.load_at, plan_every_s=5.0
        )
        return simulate(config, ClosedLoop(requests, users=4), made.policies, block_tokens=1)

    first = once()
    assert first == once()
    steady = first.steady
    parts = (
        steady.device_tokens + steady.dram_tokens + steady.late_tokens + steady.recomputed_tokens
    )
    assert parts == steady.reusable_tokens > 0
    assert 0 < steady.hot_share <= 1


def test_open_loops_run_to_their_end() -> None:
    requests = generated(6)
    outcome = simulate(SimulationConfig(), OpenLoop(requests), Policies(Recency()), block_tokens=1)
    assert outcome.turns == len(requests)
    assert outcome.steady.recomputed_tokens == 0


def test_gaps_that_are_known_are_those_of_the_trace() -> None:
    requests = [
        Request("a", 0.0, 10, 1, "a", (), gap, awaits)
        for gap, awaits in (
            (None, Awaits.TOOL),
            (2.0, Awaits.TOOL),
            (2.0, Awaits.PERSON),
            (400.0, Awaits.PERSON),
        )
    ]
    gaps = gaps_of([*requests, Request("b", 0.0, 10, 1, "b", (), None, Awaits.TOOL)])
    tool, person = gaps.everybody[Awaits.TOOL], gaps.everybody[Awaits.PERSON]
    # Two of three have come back, and of persons' one of two; the others are away for good.
    assert tool.survival(1.0) == pytest.approx(1.0)
    assert tool.survival(3.0) == pytest.approx(1 / 3)
    assert person.survival(1000.0) == pytest.approx(1 / 2)
    assert gaps.own["a", Awaits.TOOL].survival(3.0) < 1 / 3 < gaps.own["b", Awaits.TOOL].survival(3)
    known = KnownGaps(gaps)
    session, stranger = SessionKey("trace/a@3"), SessionKey("trace/x#1")
    assert known.outlook(session) is None
    known.ended(TurnEnd(session=session, awaits=Awaits.TOOL), 7.0)
    known.ended(TurnEnd(session=stranger, awaits=Awaits.TOOL), 8.0)
    assert known.away_since(session) == 7.0
    assert known.outlook(session) is gaps.own["a", Awaits.TOOL]
    assert known.outlook(stranger) is tool
    known.returned(session, 9.0)
    known.forget(stranger, 9.0)
    assert known.away_since(session) is None
    assert known.outlook(stranger) is None
    known.know(gaps_of(requests))
    known.ended(TurnEnd(session=stranger, awaits=Awaits.TOOL), 10.0)
    assert known.outlook(stranger) is not tool


def test_costs_are_those_of_the_model() -> None:
    costs = ModelCosts(ENGINE, HARDWARE)
    assert costs.load_s(4) == pytest.approx(0.2)
    assert costs.compute_s(0, 100) == pytest.approx(1.0)
    assert costs.lead_s == 1.0
    assert ModelCosts(ENGINE, HARDWARE, lead_s=0.5).lead_s == 0.5
    importance = Importance(EmpiricalReturns(), costs, chunk_tokens=10)
    order = ByImportance(importance)
    policies = Policies(order, planner=DeadlinePlanner(importance, order))
    assert run(TWO, dram=100, policies=policies).turns == 3
