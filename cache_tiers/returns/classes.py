"""Classes of gaps, each a part of a wider one, and what they have been like."""

from collections import OrderedDict
from typing import Final

from cache_tiers.returns.curve import Grid, Shares
from cache_tiers.returns.history import History, Tally
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import tenant_of

Name = tuple[str, ...]
"""Of a class: what it goes by, and which one of those."""
Path = tuple[Name, ...]
"""The classes that a gap is in, the widest first, but for everyone's."""

_MOST: Final = 8_192
"""Classes remembered, those used last: 2.5 KiB each, 4.5 of those announced."""
_LONGEST_TOOL: Final = 64
"""Characters of a tool's name."""
_HOURS: Final = 4
"""In a time of day."""
_LATER_TURNS: Final = (2, 5, 15)
"""Turns with which another part of a session begins."""
_MERIT_MEMORY: Final = 2000.0
"""Gaps after which it counts less what time of day or turns were good for."""
_KEPT_AFTER_SHIFT: Final = 20.0
"""Gaps that everything seen before a shift is worth together."""


class Classes:
    """From everyone's gaps to a session's own: a class expects what the wider one expects until it
    has seen gaps of its own, so the narrower is trusted more. In this order:

    everyone's, the tenant's, at this time of day, after so many turns, the session's; and, where
    the tool's name is known, the tool's everywhere, in the tenant, in the session.

    Time of day and turns are passed over for as long as they have not made gaps likelier that came
    later: classes that say nothing cost more than they give.
    """

    def __init__(self, grid: Grid, prior: Shares) -> None:
        """``prior``: what to expect of everyone at first."""
        self._tally = Tally(grid)
        self._prior = prior
        self._everyone = _shared(self._tally)
        self._narrower: OrderedDict[Name, History] = OrderedDict()
        self._merits = {"hour": 0.0, "turn": 0.0}

    def __len__(self) -> int:
        """Classes remembered."""
        return len(self._narrower) + 1

    def expected(self, path: Path) -> Shares:
        """Of a gap. Not to be changed."""
        returning = self._everyone.returning(self._prior)
        for name in path:
            if self._helps(name):
                returning = self._class(name).returning(returning)
        return returning

    def came_back(self, path: Path, place: int) -> None:
        """A gap ended in that bin."""
        wider = self._everyone.returning(self._prior)
        self._everyone.came_back(place)
        for name in path:
            history = self._class(name)
            helps = self._helps(name)
            narrower = history.returning(wider)
            if name[0] in self._merits:
                merit = self._merits[name[0]] * (1 - 1 / _MERIT_MEMORY)
                self._merits[name[0]] = merit + history.advantage(wider, place)
            history.came_back(place)
            if helps:
                wider = narrower

    def was_lost(self, path: Path, place: int) -> None:
        """A gap lasted into that bin, at least."""
        self._everyone.was_lost(place)
        for name in path:
            self._class(name).was_lost(place)

    def shifted(self) -> None:
        """What was seen so far says little of what will come."""
        self._everyone.shrink(_KEPT_AFTER_SHIFT)
        for name in [name for name in self._narrower if not _of_session(name)]:
            del self._narrower[name]
        self._merits = dict.fromkeys(self._merits, 0.0)

    def _helps(self, name: Name) -> bool:
        return self._merits.get(name[0], 1.0) > 0.0

    def _class(self, name: Name) -> History:
        history = self._narrower.get(name)
        if history is None:
            make = _own if _of_session(name) else _shared
            history = self._narrower[name] = make(self._tally)
            if len(self._narrower) > _MOST:
                self._narrower.popitem(last=False)
        else:
            self._narrower.move_to_end(name)
        return history


def path_of(end: TurnEnd) -> Path:
    """Of the gap that begins with ``end``."""
    tenant = tenant_of(end.session)
    path: Path = (
        ("tenant", tenant),
        ("hour", tenant, str(end.hour // _HOURS)),
        ("turn", tenant, str(sum(end.turn >= turn for turn in _LATER_TURNS))),
        ("session", end.session),
    )
    if not end.tool:
        return path
    tool = end.tool[:_LONGEST_TOOL]
    return (
        *path,
        ("tool", tool),
        ("tenant's tool", tool, tenant),
        ("session's tool", tool, end.session),
    )


def _of_session(name: Name) -> bool:
    return name[0].startswith("session")


def _shared(tally: Tally) -> History:
    return History(tally, strength=16.0, half_life=2000)


def _own(tally: Tally) -> History:
    """A session's: soon believed, and what it does now says more than what it did an hour ago. On
    recorded coding sessions, half as much or twice as much of either is worse, by 1 % at most."""
    return History(tally, strength=4.0, half_life=10)
