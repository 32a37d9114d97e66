"""Conversations drawn at random: to the recorded distributions, and the same for the same seed."""

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load import workload
from load.agent import Agent
from load.workload import Quantiles, Sender, Shape, Turn, conversation

WHOLE = Shape(scale=1, context=10**9)
"""Nothing is scaled and nothing is cut off."""


def _turns(count: int, shape: Shape = WHOLE) -> list[tuple[Turn, ...]]:
    return [conversation(f"seed {i}", shape) for i in range(count)]


def test_a_distribution_has_the_percentiles_it_was_made_of() -> None:
    of = Quantiles(((0.1, 7), (0.5, 45), (0.9, 156)))
    assert [of.at(share) for share in (0.1, 0.5, 0.9)] == pytest.approx([7, 45, 156])


@given(st.floats(0.001, 0.998), st.floats(0.0001, 0.001))
def test_a_distribution_rises(share: float, more: float) -> None:
    assert 0 < workload.APPENDED.at(share) < workload.APPENDED.at(share + more)


@pytest.mark.parametrize(
    ("of", "p50", "p90"),
    [(workload.APPENDED, 646, 3_500), (workload.TOOL_GAP_S, 9, 71), (workload.TURNS, 45, 156)],
)
def test_draws_are_calibrated(of: Quantiles, p50: float, p90: float) -> None:
    dice = random.Random(1)
    drawn = statistics.quantiles([of.draw(dice) for _ in range(4000)], n=10)
    assert drawn[4] == pytest.approx(p50, rel=0.1)
    assert drawn[8] == pytest.approx(p90, rel=0.15)


def test_conversations_are_calibrated() -> None:
    conversations = _turns(400)
    later = [turn for turns in conversations for turn in turns[1:]]
    tool = [turn for turn in later if turn.sender is Sender.TOOL]
    person = [turn for turn in later if turn.sender is Sender.PERSON]
    assert statistics.median(len(turns) for turns in conversations) == pytest.approx(45, rel=0.25)
    assert statistics.median(t.appended for t in later) == pytest.approx(646, rel=0.1)
    assert statistics.median(t.output for t in later) == pytest.approx(216, rel=0.1)
    assert statistics.median(t.gap_s for t in tool) == pytest.approx(9, rel=0.1)
    assert statistics.median(t.gap_s for t in person) == pytest.approx(132, rel=0.15)
    assert len(tool) / len(later) == pytest.approx(0.86, abs=0.02)
    assert sum(t.rewrites for t in later) / len(later) == pytest.approx(0.022, abs=0.005)


def test_a_seed_decides_everything() -> None:
    assert conversation("a", Shape()) == conversation("a", Shape())
    assert conversation("a", Shape()) != conversation("b", Shape())


def test_lengths_scale_and_gaps_do_not() -> None:
    whole, scaled = conversation("a", WHOLE), conversation("a", Shape(scale=16, context=10**9))
    assert [t.appended / 16 for t in whole] == pytest.approx([t.appended for t in scaled], abs=1)
    assert [t.gap_s for t in whole] == [t.gap_s for t in scaled]


@settings(max_examples=60)
@given(st.text(max_size=8), st.integers(256, 8192), st.floats(1, 64))
def test_no_turn_exceeds_the_context(seed: str, context: int, scale: float) -> None:
    turns = conversation(seed, Shape(scale=scale, context=context))
    first = turns[0].appended + turns[0].output
    length = first
    for turn in turns[1:]:
        length = (first if turn.rewrites else length) + turn.appended + turn.output
        assert length <= context
    assert turns[0].gap_s == 0
    assert not turns[0].rewrites
    assert all(turn.appended > 0 and turn.output > 0 for turn in turns)


def _play(agent: Agent, turns: int) -> list[tuple[dict[str, str], ...]]:
    histories = []
    for _ in range(turns):
        histories.append(agent.request().messages)
        agent.answered("an answer")
    return histories


def _with_a_rewrite() -> tuple[str, int]:
    for number in range(100):
        turns = conversation(f"seed {number}", Shape())
        for i, turn in enumerate(turns):
            if turn.rewrites and i > 2:
                return f"seed {number}", i
    raise AssertionError("no conversation rewrites")


def test_an_agent_resends_its_history() -> None:
    seed, rewrite = _with_a_rewrite()
    before, after = _play(Agent(seed, Shape()), 2)
    assert [m["role"] for m in before] == ["system", "user"]
    assert after[:2] == before
    assert after[2] == {"role": "assistant", "content": "an answer"}
    assert len(after) == 4
    assert rewrite > 1


def test_an_agent_that_rewrites_keeps_its_first_turn() -> None:
    seed, rewrite = _with_a_rewrite()
    histories = _play(Agent(seed, Shape()), rewrite + 1)
    assert histories[rewrite][:3] == histories[1][:3]
    assert len(histories[rewrite]) == 4
    assert len(histories[rewrite - 1]) > 4 or rewrite == 2


def test_an_agent_repeats_itself() -> None:
    seed, rewrite = _with_a_rewrite()
    assert _play(Agent(seed, Shape()), rewrite) == _play(Agent(seed, Shape()), rewrite)


def test_an_agent_says_about_as_much_as_its_turn() -> None:
    agent = Agent("words", Shape())
    request = agent.request()
    words = sum(len(m["content"].split()) for m in request.messages)
    assert words == pytest.approx(request.turn.appended, abs=2)
    assert request.max_tokens == request.turn.output


def test_a_conversation_ends() -> None:
    agent = Agent("end", Shape(max_turns=2))
    _play(agent, len(conversation("end", Shape(max_turns=2))))
    assert agent.upcoming is None
    with pytest.raises(IndexError):
        agent.request()
