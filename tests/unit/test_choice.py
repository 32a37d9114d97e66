"""Load or compute in the scheduler: what a request gets, and what is learned from it."""

import math
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.pace import Pace
from cache_tiers.types import ChunkKey, MissReason, Tier
from engine.core_plugin.choice import TRY_EVERY_S, Choice
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.reports import RequestRecord

TOKENS = 128


def key(number: int) -> ChunkKey:
    return ChunkKey(b"%d" % number)


class Tiers:
    """In the place of the manager, its DRAM and the store on SSD."""

    chunk_bytes = 1000
    chunks_per_read: Callable[[], int]

    def __init__(self) -> None:
        self.under_way = 1
        self.in_dram: set[ChunkKey] = set()
        self.brought: list[ChunkKey] = []
        self.dram = SimpleNamespace(
            has=self.in_dram.__contains__, has_or_awaits=self.in_dram.__contains__
        )
        self.read = SimpleNamespace(chunks_read=0, read_busy_s=0.0)
        self.ssd = SimpleNamespace(store=SimpleNamespace(stats=lambda: self.read))

    def reading(self, most: int) -> int:
        return min(most, self.under_way)

    def bring(
        self, keys: Sequence[ChunkKey], waiter: object, now: float, *, break_pins: bool
    ) -> None:
        assert not break_pins
        self.brought += keys


class Running:
    """In the place of the loads."""

    def __init__(self) -> None:
        self.reads_ahead = lambda: 0
        self.allowance = lambda: math.inf
        self.moved = 0

    def take_moved(self) -> tuple[int, bool]:
        moved, self.moved = self.moved, 0
        return moved, moved > 0


class Bench:
    def __init__(self) -> None:
        self.tiers = Tiers()
        self.loads = Running()
        self.costs = LearnedCosts(1000)
        tiers: Any = self.tiers
        loads: Any = self.loads
        self.choice = Choice(
            tiers,
            loads,
            self.costs,
            chunk_tokens=TOKENS,
            groups=1,
            workers=1,
            pace=Pace(0.05),
        )
        self.states: dict[str, Any] = {}
        self.record = RequestRecord(None, None)
        self.costs.prefilled([(0, 1000)], 1.0)

    def disk(self, chunk_s: float) -> None:
        """As found lately."""
        for _ in range(5):
            self.costs.tiers[Tier.SSD].add(4, 4 * chunk_s)

    def request(self, chunks: int, name: str = "r", on_device: int = 0) -> Any:
        request = SimpleNamespace(
            request_id=name,
            num_tokens=chunks * TOKENS + 9,
            num_prompt_tokens=chunks * TOKENS + 9,
            num_output_tokens=0,
            is_finished=lambda: False,
        )
        keys = [key(number) for number in range(chunks)]
        self.states[name] = SimpleNamespace(
            req=request,
            num_locally_computed_tokens=on_device * TOKENS,
            group_states=[SimpleNamespace(offload_keys=keys)],
            update_offload_keys=lambda: None,
        )
        return self.states[name]

    def step(self, now: float, **scheduled: tuple[int, int]) -> None:
        new = [SimpleNamespace(req_id=r, num_computed_tokens=s) for r, (s, _) in scheduled.items()]
        step = SimpleNamespace(
            scheduled_new_reqs=new,
            scheduled_cached_reqs=SimpleNamespace(req_ids=[], num_computed_tokens=[]),
            num_scheduled_tokens={r: end - start for r, (start, end) in scheduled.items()},
            total_num_scheduled_tokens=sum(end - start for start, end in scheduled.values()),
        )
        self.choice.begin_step(step, self.states, now)

    def end_step(self, now: float, copied_bytes: int = 0, seconds: float = 0.0) -> None:
        load = SimpleNamespace(bytes=copied_bytes, time=seconds)
        meta: Any = SimpleNamespace(transfer_stats=SimpleNamespace(load=load))
        self.choice.end_step(meta, self.states, now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def stream(first: int, behind: int) -> LoadStream:
    items = [LoadItem(key(i), 0, i, (i,)) for i in range(first, behind)]
    return LoadStream(items, now=0.0, patience_s=5.0)


def come(load: LoadStream, numbers: Iterable[int], now: float = 0.0) -> None:
    load.on_ready([key(number) for number in numbers], now)


def test_what_is_worth_loading_is_loaded(bench: Bench) -> None:
    bench.disk(0.01)
    assert bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0) == 10 * TOKENS
    assert bench.record.failure is None
    assert not bench.tiers.brought


def test_what_is_not_is_computed_and_said_to_be(bench: Bench) -> None:
    bench.disk(1.0)
    assert bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0) == 0
    assert bench.record.failure is MissReason.RECOMPUTE_CHEAPER


def test_what_is_in_dram_is_loaded_in_front_of_a_slow_disk(bench: Bench) -> None:
    bench.disk(1.0)
    bench.tiers.in_dram.update(key(number) for number in range(6))
    state = bench.request(10, on_device=2)
    assert bench.choice.asked(state, 8 * TOKENS, bench.record, 0.0) == 4 * TOKENS


def test_who_finds_no_room_keeps_what_was_agreed_to_while_the_same_is_found(bench: Bench) -> None:
    bench.disk(0.01)
    state = bench.request(10)
    assert bench.choice.asked(state, 10 * TOKENS, bench.record, 0.0) == 10 * TOKENS
    bench.disk(1.0)
    assert bench.choice.asked(state, 10 * TOKENS, bench.record, 0.1) == 10 * TOKENS
    bench.tiers.in_dram.add(key(0))
    assert bench.choice.asked(state, 10 * TOKENS, bench.record, 0.2) == TOKENS


def test_of_a_chain_as_much_comes_up_as_a_request_would_load(bench: Bench) -> None:
    bench.disk(1.0)
    bench.tiers.in_dram.update(key(number) for number in range(6))
    chain = [key(number) for number in range(10)]
    assert bench.choice.worth(chain, 2) == 6
    bench.disk(0.001)
    assert bench.choice.worth(chain, 2) == 10


def test_a_slow_disk_is_tried_now_and_then(bench: Bench) -> None:
    bench.disk(1.0)
    state = bench.request(10)
    for now in (0.0, 1.0, TRY_EVERY_S - 0.1):
        bench.choice.asked(state, 10 * TOKENS, bench.record, now)
    assert bench.tiers.brought == [key(number) for number in range(4)]
    bench.choice.asked(state, 10 * TOKENS, bench.record, TRY_EVERY_S)
    assert len(bench.tiers.brought) == 8


def test_a_load_that_stalls_is_cut_where_it_stands(bench: Bench) -> None:
    bench.disk(0.01)
    bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0)
    load = stream(0, 10)
    bench.choice.opened("r", load, 0.0)
    load.on_reading([key(number) for number in range(10)])
    come(load, range(3))
    bench.step(0.1)
    assert load.failure is None
    bench.step(0.6)
    assert load.failure is MissReason.RECOMPUTE_CHEAPER
    assert load.failed_at == 0, "nothing is on the device yet"
    assert load.at_hand == 3
    assert [item.key for item in load.take_run()] == [key(0), key(1), key(2)]


def test_a_sound_load_of_a_moderate_disk_goes_on(bench: Bench) -> None:
    """Four chunks that are under way together, and come together."""
    chunk_s = 0.4 * bench.costs.compute_s(0, TOKENS)
    bench.disk(chunk_s)
    bench.choice.asked(bench.request(4), 4 * TOKENS, bench.record, 0.0)
    load = stream(0, 4)
    bench.choice.opened("r", load, 0.0)
    load.on_reading([key(number) for number in range(4)])
    bench.tiers.under_way = 4
    bench.tiers.read.read_busy_s += 4 * chunk_s
    bench.step(4 * chunk_s)
    assert load.failure is None
    bench.tiers.read.read_busy_s += chunk_s
    bench.step(5 * chunk_s)
    assert load.failure is MissReason.RECOMPUTE_CHEAPER


@pytest.mark.parametrize(("chunk_s", "chunks"), [(1e-9, 4), (0.005, 4), (0.008, 2), (0.5, 1)])
def test_reads_of_a_slow_disk_bring_little_at_a_time(
    bench: Bench, chunk_s: float, chunks: int
) -> None:
    bench.disk(chunk_s)
    assert bench.tiers.chunks_per_read() == chunks


def test_a_disk_that_becomes_slow_ends_a_load(bench: Bench) -> None:
    bench.disk(0.01)
    bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0)
    load = stream(0, 10)
    bench.choice.opened("r", load, 0.0)
    for number in range(3):
        bench.tiers.read.chunks_read += 1
        bench.tiers.read.read_busy_s += 0.3
        come(load, [number])
        bench.step(0.01)
    assert load.failure is MissReason.RECOMPUTE_CHEAPER


def test_whole_loads_teach_what_they_take_beyond_transfers(bench: Bench) -> None:
    bench.disk(0.01)
    bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0)
    load = stream(0, 10)
    bench.choice.opened("r", load, 0.0)
    before = bench.costs.fetch_s(0, 10, busy=False)
    bench.choice.ended(load, before + 0.05)
    assert bench.costs.fetch_s(0, 10, busy=False) == pytest.approx(before + 0.05)


def test_a_fill_that_a_request_waits_for_is_its_load(bench: Bench) -> None:
    bench.disk(0.01)
    fill = stream(2, 10)
    come(fill, [2, 3])
    assert bench.choice.awaits(bench.request(10), [fill], 100.0)
    assert bench.choice.awaits(bench.states["r"], [fill], 100.01)
    bench.step(100.04)
    assert fill.failure is None, "it began long before anybody waited"
    bench.step(100.2)
    assert fill.failure is MissReason.RECOMPUTE_CHEAPER
    assert fill.at_hand == 2


def test_a_fill_that_is_not_worth_waiting_for_is_cut_at_once(bench: Bench) -> None:
    bench.disk(1.0)
    fill = stream(0, 10)
    come(fill, [0])
    bench.choice.awaits(bench.request(10), [fill], 0.0)
    assert fill.failure is MissReason.RECOMPUTE_CHEAPER
    assert fill.at_hand == 1


def test_a_fill_without_chunks_of_the_request_is_not_waited_for(bench: Bench) -> None:
    fills = [stream(0, 0), stream(20, 30)]
    assert not bench.choice.awaits(bench.request(10), fills, 0.0)
    bench.step(0.1)
    assert all(fill.failure is None for fill in fills)


def test_a_fill_of_which_everything_is_at_hand_is_waited_for(bench: Bench) -> None:
    bench.disk(1.0)
    fill = stream(0, 2)
    come(fill, [0, 1])
    fill.on_copied([item.key for item in fill.take_run()], 0.01)
    assert fill.ended
    assert bench.choice.awaits(bench.request(10), [fill], 0.01)
    assert fill.failure is None
    assert not bench.choice.awaits(bench.request(10), [], 0.02)


def test_prefills_copies_and_reads_are_learned(bench: Bench) -> None:
    for number in range(200):
        state = bench.request(8, name=f"r{number}")
        bench.step(number, **{f"r{number}": (0, 1000)})
        state.req.num_output_tokens = 1
        bench.end_step(number + 0.5, copied_bytes=8000, seconds=0.08)
        bench.tiers.read.chunks_read += 8
        bench.tiers.read.read_busy_s += 0.4
    assert bench.costs.compute_s(0, 1000) == pytest.approx(0.5, rel=0.01)
    assert bench.costs.tiers[Tier.DRAM].chunk_s == pytest.approx(0.01)
    assert bench.costs.tiers[Tier.SSD].chunk_s == pytest.approx(0.05)


def test_decoding_is_no_prefill(bench: Bench) -> None:
    before = bench.costs.compute_s(0, 1000)
    state = bench.request(1)
    state.req.num_output_tokens = 5
    for number in range(100):
        bench.step(number, r=(138 + number, 139 + number))
        bench.end_step(number + 0.5)
    assert bench.costs.compute_s(0, 1000) == before


def test_loads_read_no_further_ahead_than_a_deadline_allows(bench: Bench) -> None:
    bench.disk(0.1)
    assert bench.loads.reads_ahead() == 10
    bench.disk(30.0)
    assert bench.loads.reads_ahead() == 1


def test_a_request_that_is_over_is_forgotten(bench: Bench) -> None:
    bench.choice.asked(bench.request(3), 3 * TOKENS, bench.record, 0.0)
    bench.choice.forget("r")
    bench.choice.forget("r")
    with pytest.raises(KeyError):
        bench.choice.opened("r", stream(0, 3), 0.0)


def test_loads_are_paced_by_what_steps_beside_them_took(bench: Bench) -> None:
    state = bench.request(1)
    state.req.num_output_tokens = 1  # It decodes.
    now = 0.0
    for number in range(80):
        bench.step(now, r=(9, 10))
        assert bench.loads.allowance() < math.inf
        bench.loads.moved = 10 if number % 2 else 0
        now += 0.05 if number % 2 else 0.04
    bench.step(now, r=(9, 10))
    allowed = sum(bench.loads.allowance() for _ in range(10))
    assert allowed == pytest.approx(10 * 0.05 * 0.04 / 0.001, abs=1), "1 ms a chunk"
    bench.step(now + 1.0)
    assert bench.loads.allowance() == math.inf, "nobody is answered"


def test_a_load_that_is_held_back_is_not_charged_for_it(bench: Bench) -> None:
    bench.disk(0.01)
    bench.choice.asked(bench.request(10), 10 * TOKENS, bench.record, 0.0)
    load = stream(0, 10)
    bench.choice.opened("r", load, 0.0)
    come(load, range(2))
    load.held = True
    for number in range(50):
        bench.step(float(number))
    assert load.failure is None
    load.held = False
    bench.step(60.0)
    assert load.failure is MissReason.RECOMPUTE_CHEAPER, "and for what it does not bring it is"


@pytest.mark.parametrize("busy", [False, True])
def test_what_a_fill_takes_is_a_fixed_cost_unless_others_come_meanwhile(
    bench: Bench, busy: bool
) -> None:
    bench.disk(0.01)
    for _ in range(5):
        bench.costs.tiers[Tier.DRAM].add(4, 0.0)
    fill = stream(0, 10)
    ended = bench.choice.fill_opened(fill)
    bench.step(0.1)
    come(fill, range(10))
    fill.on_copied([item.key for item in fill.take_run()], 0.13)
    if busy:
        bench.step(0.12, other=(0, 10))
    ended(fill, 0.13)
    assert bench.costs.load_s(0) == pytest.approx(0.0 if busy else 0.03)
