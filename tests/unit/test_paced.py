"""Agents whose tools take their time: always the same, and never away longer than they may be."""

import statistics

import pytest

from load.paced import MEAN_TOOL_S, TOOLS, Pace, PacedAgent, Step
from load.workload import TOOL_GAP_S, Shape

SHAPE = Shape(scale=64, context=1500)


def _agent(seed: str = "a", pace: Pace | None = None) -> PacedAgent:
    return PacedAgent(seed, SHAPE, pace or Pace(), shortest=500, longest=1200)


def _steps(agent: PacedAgent, count: int, left_s: float = 1e9, stretch: float = 1.0) -> list[Step]:
    steps = []
    for _ in range(count):
        step = agent.step(left_s, stretch)
        assert step is not None
        agent.answered("done")
        steps.append(step)
    return steps


def _words(step: Step) -> int:
    return sum(len(message["content"].split()) for message in step.messages)


def test_a_seed_decides_everything() -> None:
    assert _steps(_agent("a"), 20) == _steps(_agent("a"), 20)
    assert _steps(_agent("a"), 20) != _steps(_agent("b"), 20)


def test_it_begins_in_the_midst_of_a_conversation() -> None:
    for number in range(20):
        agent = _agent(str(number))
        assert 500 <= agent.tokens <= 1.1 * 1200
        (first,) = _steps(agent, 1)
        assert _words(first) == pytest.approx(agent.tokens, rel=0.1)


def test_histories_grow_by_what_was_said() -> None:
    one, two = _steps(_agent(), 2)
    assert two.messages[: len(one.messages)] == one.messages
    assert two.messages[len(one.messages)]["content"] == "done"


def test_a_shape_without_long_histories_is_refused() -> None:
    with pytest.raises(ValueError, match="so long"):
        PacedAgent("a", SHAPE, Pace(), shortest=1700, longest=1800)


def test_tools_share_the_recorded_gaps_but_the_longest() -> None:
    assert min(TOOLS.values()) == pytest.approx(TOOL_GAP_S.at(0.08))
    assert max(TOOLS.values()) == pytest.approx(TOOL_GAP_S.at(0.72))
    gaps: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for seed in range(20):
        for step in _steps(_agent(str(seed)), 20, stretch=2.0):
            assert step.gap_s is not None
            gaps[step.tool].append(step.gap_s)
    for tool, some in gaps.items():
        assert statistics.median(some) == pytest.approx(2 * TOOLS[tool], rel=0.05)
        assert statistics.stdev(some) == pytest.approx(0.1 * 2 * TOOLS[tool], rel=0.3)


def test_a_call_that_would_last_too_long_is_an_answer_to_a_person() -> None:
    steps = _steps(_agent(), 30, left_s=MEAN_TOOL_S)
    persons = [step for step in steps if step.gap_s is None]
    assert 0 < len(persons) < 30
    assert all(step.gap_s is None or step.gap_s <= MEAN_TOOL_S for step in steps)
    assert {(step.tool, step.expect) for step in persons} == {("", "")}


def test_a_turns_gap_depends_on_its_number_alone() -> None:
    at_once, later = _agent(), _agent()
    _steps(at_once, 1, left_s=1e9)
    _steps(later, 1, left_s=0.0)
    assert [s.gap_s for s in _steps(at_once, 5)] == [s.gap_s for s in _steps(later, 5)]


def test_what_clients_say_of_their_tools() -> None:
    some = _steps(_agent(pace=Pace(announced=0.5)), 30, stretch=0.5)
    said = [step for step in some if "seconds" in step.expect]
    assert 5 < len(said) < 25
    assert all(step.expect.endswith(f"tool={step.tool}") for step in some)
    assert all(f"seconds={TOOLS[step.tool] / 2:.3f};" in step.expect for step in said)
    assert {step.expect for step in _steps(_agent(pace=Pace(named=False)), 30)} == {""}


def test_a_conversation_ends() -> None:
    agent = _agent()
    for _ in range(1000):
        if agent.step(1e9) is None:
            return
        agent.answered("done")
    pytest.fail("it never ends")
