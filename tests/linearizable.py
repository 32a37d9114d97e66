"""Whether what concurrent clients saw of one session can have happened one thing after another.

A session is a counter of begun turns, or is not there. Search as in Wing and Gong, with the states
already seen remembered as Lowe does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_STATES = 2_000_000
"""Searched at most; a history that needs more raises."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call and its outcome. Times from one clock, in seconds."""

    kind: str
    """``turn``, ``read`` or ``delete``."""
    called: float
    returned: float
    """Infinite for a call whose outcome nobody heard: it may have happened, or not."""
    result: int | None = None
    """Of a turn its number; of a read the turns begun so far, None when there is no session; of a
    delete 1 when it deleted, None when there was nothing. Unknown when nobody heard."""

    @property
    def heard(self) -> bool:
        return self.returned != float("inf")


def after(operation: Operation, begun: int | None) -> tuple[bool, int | None]:
    """Whether it can happen in this state, and the state after it."""
    if operation.kind == "turn":
        number = (begun or 0) + 1
        return not operation.heard or operation.result == number, number
    if operation.kind == "delete":
        fits = not operation.heard or (operation.result is None) == (begun is None)
        return fits, None
    return operation.result == begun, begun


def is_linearizable(history: Sequence[Operation], begun: int | None = None) -> bool:
    """``begun`` is the state before the first call. Raises RuntimeError when it cannot be told."""
    calls = sorted(history, key=lambda operation: operation.called)
    todo = (1 << len(calls)) - 1
    seen: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None]] = [(todo, begun)]
    while stack:
        left, state = stack.pop()
        if not any(call.heard for call in _of(calls, left)):
            return True
        if (left, state) in seen:
            continue
        seen.add((left, state))
        if len(seen) > MAX_STATES:
            raise RuntimeError("too many states")
        stack += _steps(calls, left, state)
    return False


def _of(calls: Sequence[Operation], left: int) -> list[Operation]:
    return [calls[index] for index in _indices(left)]


def _indices(left: int) -> list[int]:
    found = []
    while left:
        low = left & -left
        found.append(low.bit_length() - 1)
        left ^= low
    return found


def _steps(
    calls: Sequence[Operation], left: int, state: int | None
) -> list[tuple[int, int | None]]:
    steps, unheard = [], set()
    first_return = float("inf")
    for index in _indices(left):
        call = calls[index]
        if call.called > first_return:
            break
        first_return = min(first_return, call.returned)
        if not call.heard:
            # Those that nobody heard of are alike: the earliest of a kind stands for all.
            if call.kind in unheard:
                continue
            unheard.add(call.kind)
        fits, following = after(call, state)
        if fits:
            steps.append((left & ~(1 << index), following))
    return steps
