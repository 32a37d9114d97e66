"""The checker itself: what it must accept, and what it must not."""

import pytest

from tests.linearizable import Operation, is_linearizable

NEVER = float("inf")


def turn(number: int | None, called: float, returned: float) -> Operation:
    return Operation("turn", called, returned, number)


def read(begun: int | None, called: float, returned: float) -> Operation:
    return Operation("read", called, returned, begun)


def delete(done: int | None, called: float, returned: float) -> Operation:
    return Operation("delete", called, returned, done)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [turn(1, 0, 1), turn(2, 2, 3), read(2, 4, 5)],
        [turn(2, 0, 3), turn(1, 1, 2)],
        [read(None, 0, 1), turn(1, 0, 3), read(1, 2, 4)],
        [turn(1, 0, 1), delete(1, 2, 3), read(None, 4, 5), turn(1, 6, 7)],
        [turn(None, 0, NEVER), turn(2, 1, 2)],
        [turn(None, 0, NEVER), turn(1, 1, 2), turn(2, 3, 4)],
        [turn(1, 0, 1), delete(None, 2, NEVER), turn(1, 5, 6)],
    ],
)
def test_what_can_have_happened(history: list[Operation]) -> None:
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [turn(2, 0, 1)],
        [turn(1, 0, 1), turn(1, 2, 3)],
        [turn(1, 0, 3), turn(1, 1, 2)],
        [turn(2, 0, 1), turn(1, 2, 3)],
        [turn(1, 0, 1), read(None, 2, 3)],
        [turn(1, 0, 1), turn(2, 2, 3), read(1, 4, 5)],
        [turn(1, 0, 1), delete(1, 2, 3), read(1, 4, 5)],
        [turn(1, 0, 1), delete(None, 2, 3)],
        [turn(None, 2, NEVER), turn(2, 0, 1)],
    ],
)
def test_what_cannot(history: list[Operation]) -> None:
    assert not is_linearizable(history)


def test_many_at_once() -> None:
    history = [turn(number, 0, 100) for number in range(1, 10)]
    history += [turn(number, 200 + number, 201 + number) for number in range(10, 200)]
    history += [turn(None, 50, NEVER) for _ in range(10)]
    assert is_linearizable(history)
    assert not is_linearizable([*history, turn(9, 500, 501)])
