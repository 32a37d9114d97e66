"""What is worth a write: by what was seen so far, and by what is left of the day's budget."""

from collections.abc import Callable

import pytest

from cache_tiers.endurance.admission import Admission, AdmissionConfig, Chain, Decision
from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.endurance.demand import Demand
from cache_tiers.endurance.survival import Survival
from cache_tiers.types import SessionKey

TOKENS, BYTES, DAILY = 256, 100, 10_000_000
SCARCE = 0.05
"""So much of a day's budget is left, and still enough bytes for any one session."""
CONFIG = AdmissionConfig(chunk_tokens=TOKENS, chunk_bytes=BYTES, min_tokens=1024, sessions=64)


def flat(start: int, end: int) -> float:
    return end - start


def attention(start: int, end: int) -> float:
    return (end - start) + (end * end - start * start) / 2 / 8192


def make(cost: Callable[[int, int], float] = flat) -> Admission:
    return Admission(CONFIG, cost)


def budget_with(left: float) -> WriteBudget:
    """A share of a day's, on a clock that stands."""
    budget = WriteBudget(DAILY, lambda: 0.0)
    assert budget.take(round(DAILY * (1 - left)))
    return budget


def chain(session: str, chunks: int, kept: int = 0, stored: int = 0, shared: int = 0) -> Chain:
    return Chain(
        session=SessionKey(f"t/{session}"), chunks=chunks, kept=kept, stored=stored, shared=shared
    )


def taught(admission: Admission, ones: int = 400, agents: int = 20, turns: int = 40) -> Admission:
    """Has seen agents that went on and on, and many prompts that came once."""
    plenty = budget_with(1.0)
    for number in range(agents):
        for turn in range(turns):
            before = 40 + turn - 1 if turn else 0
            admission.turn_ended(chain(f"agent {number}", 40 + turn, before, before), plenty)
    for number in range(ones):
        admission.turn_ended(chain(f"one {number}", 40), plenty)
    return admission


def test_without_a_budget_all_is_written() -> None:
    assert make().turn_ended(chain("a", 40), None) == Decision(40, 0)
    assert make().turn_ended(chain("a", 40, stored=10), None) == Decision(30, 0)


def test_with_a_full_budget_all_is_written() -> None:
    admission = taught(make())
    assert admission.turn_ended(chain("new", 40), budget_with(1.0)) == Decision(40, 0)


@pytest.mark.parametrize("budget", [None, budget_with(1.0)])
def test_small_contexts_are_not_written(budget: WriteBudget | None) -> None:
    admission = make()
    assert admission.turn_ended(chain("a", 3), budget) == Decision(0, 3)
    assert admission.parked(chain("a", 3), budget) == Decision(0, 3)
    assert admission.turn_ended(chain("a", 4, kept=3), budget) == Decision(4, 0)


def test_nothing_waits_of_a_chain_that_is_stored() -> None:
    assert make().turn_ended(chain("a", 40, stored=40), budget_with(0.0)) == Decision(0, 0)


def test_what_came_once_waits_when_the_budget_is_scarce() -> None:
    admission = taught(make())
    scarce = budget_with(SCARCE)
    assert admission.turn_ended(chain("new", 40), scarce) == Decision(0, 40)
    assert admission.turn_ended(chain("new", 41, kept=40), scarce) == Decision(41, 0)


def test_what_another_session_has_does_not_wait() -> None:
    admission = taught(make())
    assert admission.turn_ended(chain("new", 40, shared=12), budget_with(SCARCE)) == Decision(
        12, 28
    )


def test_a_session_of_an_earlier_process_has_gone_on_before() -> None:
    admission = taught(make())
    assert admission.turn_ended(chain("old", 40, kept=39), budget_with(SCARCE)) == Decision(40, 0)


def test_never_more_than_the_budget_pays_for() -> None:
    admission = make()
    assert admission.turn_ended(chain("a", 40), budget_with(0.00017)).write <= 17
    assert admission.turn_ended(chain("b", 40), budget_with(0.0)) == Decision(0, 40)


def test_it_takes_nothing_itself() -> None:
    budget = budget_with(0.5)
    make().turn_ended(chain("a", 40), budget)
    make().parked(chain("a", 40), budget)
    assert budget.level == DAILY // 2


def test_a_park_is_a_demand() -> None:
    admission, scarce = taught(make()), budget_with(0.0002)
    assert admission.turn_ended(chain("new", 40), scarce) == Decision(0, 40)
    assert admission.parked(chain("new", 40, kept=40), scarce) == Decision(20, 20)
    assert admission.parked(chain("new", 40, kept=40, stored=25), scarce) == Decision(15, 0)
    assert admission.parked(chain("new", 40), None) == Decision(40, 0)


def test_the_beginning_of_a_prompt_outlives_its_end() -> None:
    """Agents whose clients rewrite everything behind the first chunks: the end may wait."""
    admission, plenty = make(), budget_with(1.0)
    for number in range(20):
        for turn in range(40):
            kept = 8 if turn else 0
            admission.turn_ended(chain(f"agent {number}", 200, kept), plenty)
    write = admission.turn_ended(chain("agent 1", 200, kept=8), budget_with(0.25)).write
    assert 8 <= write < 200


def test_late_tokens_are_dearer_to_compute() -> None:
    """Of contexts that live equally long, the large ones are worth more a byte."""
    admission, plenty = make(attention), budget_with(1.0)
    for number in range(20):
        for turn in range(20):
            for name, chunks in (("small", 40), ("large", 400)):
                kept = chunks if turn else 0
                admission.turn_ended(chain(f"{name} {number}", chunks, kept), plenty)
    scarce = budget_with(0.35)
    assert admission.turn_ended(chain("large 1", 400, kept=400), scarce) == Decision(400, 0)
    assert admission.turn_ended(chain("small 1", 40, kept=40), scarce) == Decision(0, 40)


def test_an_unknown_cost_counts_as_flat() -> None:
    assert make(lambda start, end: 0.0).turn_ended(chain("a", 40), budget_with(1.0)).write == 40


def test_sessions_are_forgotten() -> None:
    admission, scarce = taught(make()), budget_with(SCARCE)
    admission.turn_ended(chain("new", 40), scarce)
    admission.forget(SessionKey("t/new"))
    admission.forget(SessionKey("t/never"))
    assert admission.turn_ended(chain("new", 40), scarce) == Decision(0, 40)


def test_only_so_many_sessions_are_remembered() -> None:
    admission = make()
    for number in range(10 * CONFIG.sessions):
        admission.turn_ended(chain(f"s {number}", 40), None)
    assert len(admission._sessions) == CONFIG.sessions


def test_shares_of_few_cases_are_those_of_the_whole() -> None:
    survival = Survival(0.5)
    assert survival.share((1, 2)) == 0.5
    for _ in range(1000):
        survival.reached((1, 2))
        survival.went_on((1, 2))
        survival.reached((3, 4))
    assert survival.share((1, 2)) > 0.95
    assert survival.share((3, 4)) < 0.05
    assert survival.share((5, 6)) == pytest.approx(0.5)
    assert survival.share((1, 7)) > 0.9


def test_old_cases_fade() -> None:
    survival = Survival(0.5)
    for _ in range(60_000):
        survival.reached((1,))
        survival.went_on((1,))
    for _ in range(60_000):
        survival.reached((1,))
    assert survival.share((1,)) < 0.25


def test_a_price_is_the_worth_that_a_share_is_below() -> None:
    demand = Demand()
    assert demand.price(0.9) == 0
    demand.add(1.0, 700)
    demand.add(8.0, 300)
    demand.add(99.0, 0)
    assert demand.price(0.0) == 0
    assert demand.price(0.5) == pytest.approx(1.0, rel=0.1)
    assert demand.price(0.9) == pytest.approx(8.0, rel=0.1)
    assert demand.price(1.0) >= 8.0


def test_old_demand_fades() -> None:
    demand = Demand()
    demand.add(64.0, 30_000)
    for _ in range(100):
        demand.add(1.0, 1000)
    assert demand.price(0.5) == pytest.approx(1.0, rel=0.1)
