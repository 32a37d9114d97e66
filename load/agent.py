"""One agent at work: what it sends next, given what it was answered. Pure."""

from dataclasses import dataclass

from load.prose import Prose
from load.workload import Sender, Shape, Turn, conversation

Message = dict[str, str]

_TOOLS = ("read_file", "run_tests", "search", "edit_file", "list_files")

_FIRST_TURN = 3
"""Messages of the first turn: instructions, task, answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """A turn as it goes to the server."""

    messages: tuple[Message, ...]
    """The whole history, as a chat completion wants it."""
    max_tokens: int
    turn: Turn


class Agent:
    """A conversation from its first turn to its last: the same for the same seed."""

    def __init__(self, seed: str, shape: Shape) -> None:
        self._turns = conversation(seed, shape)
        self._prose = Prose(seed)
        self._history: list[Message] = []
        self._number = 0

    @property
    def upcoming(self) -> Turn | None:
        """The turn that the next request will make; None when the conversation is over."""
        return self._turns[self._number] if self._number < len(self._turns) else None

    def request(self) -> Request:
        """The next request, to be ``answered`` before another. Raises IndexError at the end."""
        turn = self._turns[self._number]
        if turn.rewrites:
            del self._history[_FIRST_TURN:]
        self._history += self._input(turn)
        return Request(tuple(self._history), turn.output, turn)

    def answered(self, text: str) -> None:
        """Take the answer to the last request into the history."""
        self._history.append({"role": "assistant", "content": text})
        self._number += 1

    def _input(self, turn: Turn) -> list[Message]:
        if self._number == 0:
            rules = turn.appended * 3 // 4
            return [
                {"role": "system", "content": self._prose.words(rules)},
                {"role": "user", "content": self._prose.words(turn.appended - rules)},
            ]
        text = self._prose.words(turn.appended)
        if turn.sender is Sender.TOOL:
            text = f"Result of {_TOOLS[self._number % len(_TOOLS)]}:\n{text}"
        return [{"role": "user", "content": text}]
