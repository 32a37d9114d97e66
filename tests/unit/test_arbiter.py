"""Load or compute: where to cut, and when to stop."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.arbiter import SLACK, Bargain, Hit, Run, choose
from cache_tiers.types import Tier

CHUNK = 128


@dataclass
class Machine:
    """Of known speeds, in seconds."""

    ssd_s: float = 0.0
    dram_s: float = 0.0
    fixed_s: float = 0.0
    token_s: float = 0.001
    slope_s: float = 0.0
    """For each token before it."""

    def fetch_s(self, dram: int, ssd: int, *, busy: bool) -> float:
        return self.fixed_s * (2 if busy else 1) + ssd * self.ssd_s + dram * self.dram_s

    def compute_s(self, start: int, end: int) -> float:
        return self.token_s * (end - start) + self.slope_s * (end**2 - start**2) / 2


def hit(*runs: Run, start: int = 0, tail: int = 50, busy: bool = False) -> Hit:
    prompt = start + CHUNK * sum(run.chunks for run in runs) + tail
    return Hit(start=start, prompt=prompt, chunk_tokens=CHUNK, runs=runs, busy=busy)


def test_what_loads_faster_is_loaded() -> None:
    assert choose(hit(Run(Tier.SSD, 10)), Machine(ssd_s=0.01)).chunks == 10


def test_what_loads_slower_is_computed() -> None:
    assert choose(hit(Run(Tier.SSD, 10)), Machine(ssd_s=0.2)).chunks == 0


def test_what_takes_as_long_is_computed() -> None:
    assert choose(hit(Run(Tier.SSD, 10)), Machine(ssd_s=CHUNK * 0.001)).chunks == 0


def test_a_part_is_loaded_and_a_part_computed() -> None:
    found = hit(Run(Tier.DRAM, 6), Run(Tier.SSD, 4))
    assert choose(found, Machine(ssd_s=0.2, dram_s=0.001)).chunks == 6


def test_what_cannot_be_divided_is_loaded_whole_or_not_at_all() -> None:
    found = replace(hit(Run(Tier.DRAM, 6), Run(Tier.SSD, 4)), divisible=False)
    assert choose(found, Machine(ssd_s=0.2, dram_s=0.001)).chunks == 10
    assert choose(found, Machine(ssd_s=0.4, dram_s=0.001)).chunks == 0


def test_a_slow_run_in_front_of_a_fast_one_is_loaded_where_both_together_pay() -> None:
    found = hit(Run(Tier.SSD, 1), Run(Tier.DRAM, 40))
    assert choose(found, Machine(ssd_s=0.5, dram_s=0.001)).chunks == 41
    assert choose(found, Machine(ssd_s=9.0, dram_s=0.001)).chunks == 0


def test_late_chunks_may_be_worth_a_load_that_early_ones_are_not() -> None:
    machine = Machine(ssd_s=0.2, slope_s=1e-6)
    assert choose(hit(Run(Tier.SSD, 10)), machine).chunks == 0
    assert choose(hit(Run(Tier.SSD, 10), start=8192), machine).chunks == 10


def test_a_short_hit_is_not_worth_the_trouble() -> None:
    machine = Machine(ssd_s=0.001, fixed_s=0.2)
    assert choose(hit(Run(Tier.SSD, 1)), machine).chunks == 0
    assert choose(hit(Run(Tier.SSD, 4)), machine).chunks == 4
    assert choose(hit(Run(Tier.SSD, 3), busy=True), machine).chunks == 0


def test_the_last_token_is_computed_whatever_is_loaded() -> None:
    found = hit(Run(Tier.DRAM, 2), tail=0)
    assert choose(found, Machine(dram_s=0.001)).chunks == 2
    assert found.end(2) == 255


def test_nothing_found_is_nothing_loaded() -> None:
    bargain = choose(hit(), Machine())
    assert bargain.chunks == 0


def test_a_load_as_agreed_goes_on() -> None:
    bargain = choose(hit(Run(Tier.SSD, 10)), Machine(ssd_s=0.1, fixed_s=0.05))
    for arrived in range(10):
        assert bargain.holds(arrived, 0.05 + 0.1 * (arrived + 1))


def test_a_load_that_brings_nothing_is_cut_when_that_has_cost_the_slack() -> None:
    machine = Machine(ssd_s=0.01)
    bargain = choose(hit(Run(Tier.SSD, 10)), machine)
    slack = SLACK * machine.compute_s(0, 10 * CHUNK)
    assert bargain.holds(0, 0.011 + slack - 0.001)
    assert not bargain.holds(0, 0.011 + slack + 0.001)
    assert bargain.holds(1, 0.011 + slack + 0.001), "a chunk came"


def test_of_chunks_that_come_together_the_first_may_come_with_the_last() -> None:
    machine = Machine(ssd_s=0.05)
    found = replace(hit(Run(Tier.SSD, 10)), together=4)
    slack = SLACK * machine.compute_s(0, 10 * CHUNK)
    bargain = choose(found, machine)
    assert bargain.holds(0, 4 * 0.055 + slack - 0.001)
    assert not bargain.holds(0, 4 * 0.055 + slack + 0.001)
    few = choose(replace(hit(Run(Tier.SSD, 2)), together=4), machine)
    slack = SLACK * machine.compute_s(0, 2 * CHUNK)
    assert few.holds(0, 2 * 0.055 + slack - 0.001)
    assert not few.holds(0, 2 * 0.055 + slack + 0.001)


def test_a_tier_that_became_slow_is_left_at_once() -> None:
    machine = Machine(ssd_s=0.01)
    bargain = choose(hit(Run(Tier.SSD, 10)), machine)
    machine.ssd_s = 0.2
    assert not bargain.holds(5, 0.05)
    assert bargain.holds(10, 0.1), "nothing is left to cut"


def test_a_long_hit_takes_few_questions() -> None:
    @dataclass
    class Asked(Machine):
        questions: int = 0

        def fetch_s(self, dram: int, ssd: int, *, busy: bool) -> float:
            self.questions += 1
            return super().fetch_s(dram, ssd, busy=busy)

        def compute_s(self, start: int, end: int) -> float:
            self.questions += 1
            return super().compute_s(start, end)

    machine = Asked(ssd_s=0.01, dram_s=0.001)
    assert choose(hit(Run(Tier.DRAM, 4000), Run(Tier.SSD, 4000)), machine).chunks == 8000
    assert machine.questions < 50


_RUNS = st.lists(st.builds(Run, st.sampled_from([Tier.DRAM, Tier.SSD]), st.integers(1, 12)))
_MACHINES = st.builds(
    Machine,
    ssd_s=st.floats(0, 0.5),
    dram_s=st.floats(0, 0.1),
    fixed_s=st.floats(0, 0.5),
    token_s=st.floats(1e-5, 0.005),
    slope_s=st.floats(0, 1e-5),
)


@given(_RUNS, _MACHINES, st.integers(0, 50))
def test_no_other_cut_is_better(runs: list[Run], machine: Machine, start: int) -> None:
    found = hit(*runs, start=start * CHUNK)

    def waits(cut: int) -> float:
        load = 1.1 * machine.fetch_s(*found.upto(cut), busy=False) if cut else 0.0
        return load + machine.compute_s(found.end(cut), found.prompt)

    best = waits(choose(found, machine).chunks)
    # The last chunk of a prompt has a token less to save: the proof is for whole ones.
    assert all(best <= waits(cut) + 1e-9 for cut in range(found.chunks + 1))


@given(_RUNS, _MACHINES, st.booleans(), st.integers(1, 10))
def test_no_deficit_on_the_way_is_larger_than_agreed(
    runs: list[Run], machine: Machine, divisible: bool, together: int
) -> None:
    found = replace(hit(*runs), divisible=divisible, together=together)
    for chunks in {0, found.chunks // 2, found.chunks}:
        _, all_ssd = found.upto(chunks)

        def deficit(arrived: int, all_ssd: int = all_ssd) -> float:
            kept = arrived if divisible else 0
            dram, ssd = found.upto(arrived)
            if found.upto(arrived + 1)[1] > ssd:
                ssd = min(ssd + together, all_ssd)
            else:
                dram += 1
            spent = 1.1 * machine.fetch_s(dram, ssd, busy=False)
            return spent - machine.compute_s(0, found.end(kept))

        largest = max(map(deficit, range(chunks)), default=0.0)
        agreed = Bargain(found, chunks, machine)._agreed_s
        assert agreed == pytest.approx(max(largest, 0.0), abs=1e-9)


@given(_RUNS, _MACHINES, st.data())
def test_whatever_the_tiers_do_a_hit_costs_little_more_than_a_miss(
    runs: list[Run], machine: Machine, data: st.DataObject
) -> None:
    found = hit(*runs)
    bargain = choose(found, machine)
    agreed = Bargain(found, bargain.chunks, machine)._agreed_s
    worth = machine.compute_s(0, found.end(bargain.chunks))
    elapsed, arrived, step = 0.0, 0, 0.01
    for _ in range(2000):
        if arrived == bargain.chunks or not bargain.holds(arrived, elapsed):
            break
        elapsed += step
        arrived += data.draw(st.integers(0, 1)) if _ < 50 else 0
    lost = elapsed - machine.compute_s(0, found.end(arrived))
    assert lost <= agreed + SLACK * worth + step + 1e-9
