"""A team at work on a server that answers from memory: stints without waiting."""

import itertools
from collections.abc import Sequence
from typing import cast

import pytest

from load.client import Client
from load.paced import Pace, PacedAgent
from load.stream import Streamed
from load.team import Team
from load.workload import Shape


class Memory:
    """Speaks as a client does. Answers at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[dict[str, str]], str]] = []
        self.stored: list[str] = []
        self.breaks_after: int | None = None

    def chat(
        self, messages: Sequence[dict[str, str]], max_tokens: int, session: str, expect: str
    ) -> Streamed:
        self.asked.append((session, messages, expect))
        if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
            raise ConnectionError("gone")
        answer = f"answer {len(self.asked)}"
        return Streamed(answer, (0.25,), 0.5, {"completion_tokens": max_tokens}, {"turn": 1})

    def wait_until_stored(self, session: str) -> bool:
        self.stored.append(session)
        return True


@pytest.fixture
def memory() -> Memory:
    return Memory()


def _team(memory: Memory, count: int = 3) -> Team:
    """Nobody waits, and a second passes whenever somebody looks at the clock."""
    shape = Shape(scale=64, context=1500)
    agents = [
        PacedAgent(f"agent {n}", shape, Pace(announced=0.5), shortest=500, longest=1200)
        for n in range(count)
    ]
    seconds = itertools.count()
    return Team(
        cast(Client, memory),
        agents,
        clock=lambda: float(next(seconds)),
        pause=lambda over, _: over.is_set(),
    )


def test_single_turns_answer_persons(memory: Memory) -> None:
    team = _team(memory)
    turned, answer = team.turn(1)
    assert (turned.agent, turned.number, turned.tool, turned.gap_s) == (1, 1, "", None)
    assert answer == "answer 1"
    assert [(session, expect) for session, _, expect in memory.asked] == [("agent-1", "")]
    team.wait_until_stored(1)
    assert memory.stored == ["agent-1"]
    assert team.turn(1)[0].gap_s is not None


def test_it_goes_on_where_another_has_begun(memory: Memory) -> None:
    first, second = _team(memory), _team(memory)
    second.skip([first.turn(number)[1] for number in range(2)])
    turns = [second.turn(number)[0] for number in range(3)]
    assert [turn.number for turn in turns] == [2, 2, 1]
    for before, after in zip(memory.asked[:2], memory.asked[2:], strict=False):
        history = list(after[1])
        assert history[: len(before[1])] == list(before[1])
        assert history[len(before[1])]["content"].startswith("answer")


def test_a_stint_ends_with_persons(memory: Memory) -> None:
    team = _team(memory)
    turns = team.stint(60.0, 1.0)
    last = {turn.agent: turn.number for turn in turns}
    assert set(last) == {0, 1, 2}
    assert max(last.values()) > 2
    said = {session: expect for session, _, expect in memory.asked}
    assert set(said.values()) == {""}
    assert [turn.sent for turn in turns] == sorted(turn.sent for turn in turns)
    again = team.stint(60.0, 1.0)
    firsts = [next(t for t in again if t.agent == n) for n in range(3)]
    assert [turn.number for turn in firsts] == [last[n] + 1 for n in range(3)]
    assert {turn.tool for turn in firsts} == {""}


def test_turns_know_what_they_waited_for(memory: Memory) -> None:
    turns = _team(memory, 1).stint(300.0, 1.0)
    for (_, _, said), turn in zip(memory.asked[:-1], turns[1:], strict=True):
        assert said.endswith(f"tool={turn.tool}") if turn.tool else said == ""
        assert turn.announced == ("seconds=" in said)
    assert any(turn.announced for turn in turns)
    assert any(turn.tool and not turn.announced for turn in turns)


def test_what_goes_wrong_for_one_ends_the_stint(memory: Memory) -> None:
    memory.breaks_after = 4
    with pytest.raises(ConnectionError):
        _team(memory).stint(1e9, 1.0)
