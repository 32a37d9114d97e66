"""What was used last, within a bound of bytes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

Name = tuple[str, str]
"""Tenant and session id."""


class Recent(Generic[V]):
    """Values by session; those that were not asked for the longest go first. Not for threads."""

    def __init__(self, room: int, on_drop: Callable[[Name, V], None] = lambda *_: None) -> None:
        """``room`` is in bytes; ``on_drop`` hears of every value that is not at hand any more."""
        self._room = room
        self._on_drop = on_drop
        self._values: OrderedDict[Name, tuple[V, int]] = OrderedDict()
        self.used = 0
        """Bytes."""

    def put(self, name: Name, value: V, size: int) -> None:
        """Have a value at hand, in the place of an older one; others may have to go for it."""
        self.drop(name)
        self._values[name] = value, size
        self.used += size
        while self.used > self._room:
            self.drop(next(iter(self._values)))

    def get(self, name: Name) -> V | None:
        """A session's value, if it is still at hand."""
        found = self._values.get(name)
        if found is None:
            return None
        self._values.move_to_end(name)
        return found[0]

    def drop(self, name: Name) -> None:
        """Have nothing of a session at hand."""
        found = self._values.pop(name, None)
        if found is not None:
            self.used -= found[1]
            self._on_drop(name, found[0])

    def clear(self) -> None:
        """Have nothing at hand."""
        while self._values:
            self.drop(next(iter(self._values)))
