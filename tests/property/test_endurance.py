"""The write budget against a ledger, and admission against what it promises."""

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.endurance.admission import Admission, AdmissionConfig, Chain, Decision
from cache_tiers.endurance.budget import DAY_S, WriteBudget
from cache_tiers.types import SessionKey

DAILY = 86_400 * 8


class BudgetMachine(RuleBasedStateMachine):
    """Whatever the clock does and however often the process dies: never more is granted than the
    first bucket and what time really passed on the clock, a day at most for each step of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1e9
        self.budget = WriteBudget(DAILY, lambda: self.now)
        self.granted = 0
        self.allowed = float(DAILY)

    @rule(size=st.integers(0, DAILY + 10))
    def take(self, size: int) -> None:
        before = self.budget.level
        taken = self.budget.take(size)
        assert taken == (size <= before)
        assert self.budget.level == before - size * taken
        self.granted += size * taken

    @rule(step=st.integers(1, 3 * int(DAY_S)))
    def wait(self, step: int) -> None:
        self.now += step
        self.allowed += min(step, DAY_S) / DAY_S * DAILY
        assert self.budget.level >= 0

    @rule(step=st.integers(1, 1000 * int(DAY_S)))
    def set_back(self, step: int) -> None:
        before = self.budget.level
        self.now -= step
        assert self.budget.level == before

    @rule(ahead=st.integers(0, DAILY))
    def restart(self, ahead: int) -> None:
        before = self.budget.level
        self.budget = WriteBudget(DAILY, lambda: self.now, self.budget.state(ahead))
        assert self.budget.level == max(0, before - ahead)

    @invariant()
    def within(self) -> None:
        assert self.granted <= self.allowed + 1
        assert 0 <= self.budget.level <= DAILY
        assert 0 <= self.budget.fraction_left <= 1


TestBudget = BudgetMachine.TestCase
TestBudget.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(0, 400), st.integers(1, 5))
def test_crashes_never_give_back_what_was_spent(sizes: list[int], ahead: int, every: int) -> None:
    """Saved whenever more than ``ahead`` would be unsaved; killed after every few writes."""
    budget = WriteBudget(DAILY, lambda: 0.0)
    saved, spent = budget.state(ahead), 0
    for number, size in enumerate(sizes, 1):
        if budget.unsaved + size > ahead:
            saved = budget.state(max(ahead, size))
        assert budget.take(size)
        spent += size
        if number % every == 0:
            budget = WriteBudget(DAILY, lambda: 0.0, saved)
            saved = budget.state(ahead)
            assert budget.level <= DAILY - spent


_SESSIONS = st.integers(0, 6).map(lambda number: SessionKey(f"t/{number}"))


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    chunks = draw(st.integers(0, 300))
    part = st.integers(0, chunks)
    return Chain(
        session=draw(_SESSIONS),
        chunks=chunks,
        kept=draw(part),
        stored=draw(part),
        shared=draw(part),
    )


_TURNS = st.lists(st.tuples(chains(), st.integers(0, 100_000), st.booleans()), max_size=40)


def _replay(turns: list[tuple[Chain, int, bool]], tokens: int) -> list[Decision]:
    config = AdmissionConfig(chunk_tokens=tokens, chunk_bytes=100, min_tokens=2048, sessions=4)
    admission = Admission(config, lambda start, end: float(end - start) * (start % 7))
    decisions = []
    for chain, left, park in turns:
        budget = WriteBudget(100_000, lambda: 0.0)
        assert budget.take(100_000 - left)
        ask = admission.parked if park else admission.turn_ended
        decision = ask(chain, budget)
        decisions.append(decision)
        assert decision.write >= 0
        assert decision.wait >= 0
        assert decision.write + decision.wait == chain.chunks - chain.stored
        assert decision.write * 100 <= left
        assert budget.level == left
        if chain.chunks * tokens < 2048:
            assert decision.write == 0
        elif park or left == 100_000:
            assert decision.write == min(chain.chunks - chain.stored, left // 100)
    assert len(admission._sessions) <= 4
    return decisions


@given(_TURNS, st.sampled_from([16, 128, 512, 4096]))
def test_decisions_are_whole_affordable_and_the_same_again(
    turns: list[tuple[Chain, int, bool]], tokens: int
) -> None:
    assert _replay(turns, tokens) == _replay(turns, tokens)
