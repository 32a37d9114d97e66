"""What was used last, within a bound of bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

Name = tuple[str, str]
"""Tenant and session id."""


class Recent(Generic[V]):
    """Values by session; those that were not asked for the longest go first. Not for threads."""

    def __init__(self, room: int) -> None:
        """``room`` is in bytes."""
        self._room = room
        self._values: OrderedDict[Name, tuple[V, int]] = OrderedDict()
        self.used = 0
        """Bytes."""

    def put(self, name: Name, value: V, size: int) -> None:
        """Have a value at hand, in the place of an older one; others may have to go for it."""
        self.drop(name)
        self._values[name] = value, size
        self.used += size
        while self.used > self._room:
            _, (_, oldest) = self._values.popitem(last=False)
            self.used -= oldest

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
