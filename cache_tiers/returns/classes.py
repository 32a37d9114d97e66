"""Classes of gaps, each a part of a wider one, and what they have been like."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from cache_tiers.returns.curve import Grid, Shares
from cache_tiers.returns.history import History, Tally
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import tenant_of

Name = tuple[str, ...]
"""Of a class: what it goes by, and which one of those."""
Path = tuple[Name, ...]
"""The classes that a gap is in, the widest first, which is its tenant's."""

_MOST: Final = 8_192
"""Classes remembered, of all tenants: 2.5 KiB each, 4.5 of those announced."""
_LONGEST_TOOL: Final = 64
"""Characters of a tool's name."""
_HOURS: Final = 4
"""In a time of day."""
_LATER_TURNS: Final = (2, 5, 15)
"""Turns with which another part of a session begins."""
_MERIT_MEMORY: Final = 2000.0
"""Gaps after which it counts less what such a class was good for."""
_ON_PROBATION: Final = ("lately", "hour", "turn", "session", "tool", "session's tool")
"""What classes of a tenant go by that have to earn their place."""
_KEPT_AFTER_SHIFT: Final = 20.0
"""Gaps that everything seen before a shift is worth together."""


@dataclass(slots=True)
class _Tenant:
    histories: OrderedDict[Name, History] = field(default_factory=OrderedDict)
    """Those used last are the last."""
    merits: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_ON_PROBATION, 0.0))

    def helps(self, name: Name) -> bool:
        return self.merits.get(name[0], 1.0) > 0.0


class Classes:
    """From a tenant's gaps to a session's own: a class expects what the wider one expects until it
    has seen gaps of its own, so the narrower is trusted more. In this order:

    the tenant's, its latest ones, at this time of day, after so many turns, the session's; and,
    where the tool's name is known, the tool's in the tenant, in the session.

    Nothing is wider than a tenant: from what one is told of its next turns it could read how long
    another's take. One that nothing is known of is expected to do what the prior says.

    A class but the tenant's is passed over for as long as such classes have not made the tenant's
    gaps likelier that came later: classes that say nothing cost more than they give.
    """

    def __init__(self, grid: Grid, prior: Shares) -> None:
        """``prior``: what to expect of a tenant at first."""
        self._tally = Tally(grid)
        self._prior = prior
        self._tenants: dict[Name, _Tenant] = {}
        self._count = 0

    def __len__(self) -> int:
        """Classes remembered."""
        return self._count

    def expected(self, path: Path) -> Shares:
        """Of a gap. Not to be changed. What is asked about is not yet remembered."""
        returning = self._prior
        tenant = self._tenants.get(path[0])
        if tenant is None:
            return returning
        for name in path:
            history = tenant.histories.get(name)
            if history is not None and tenant.helps(name):
                tenant.histories.move_to_end(name)
                returning = history.returning(returning)
        return returning

    def came_back(self, path: Path, place: int, passed: int = 0) -> None:
        """A gap ended in that bin, of which ``lasts`` was told so far."""
        tenant = self._tenant(path)
        wider = self._prior
        for name in path:
            history = self._history(tenant, name)
            helps = tenant.helps(name)
            narrower = history.returning(wider)
            if name[0] in tenant.merits:
                merit = tenant.merits[name[0]] * (1 - 1 / _MERIT_MEMORY)
                tenant.merits[name[0]] = merit + history.advantage(wider, place)
            history.came_back(place, passed)
            if helps:
                wider = narrower
        self._make_room()

    def was_lost(self, path: Path, place: int, passed: int = 0) -> None:
        """A gap lasted into that bin, at least."""
        tenant = self._tenant(path)
        for name in path:
            self._history(tenant, name).was_lost(place, passed)
        self._make_room()

    def lasts(self, path: Path, place: int, passed: int) -> None:
        """A gap has lasted until that bin, and is not over; before, it had passed so many bins."""
        tenant = self._tenant(path)
        for name in path:
            self._history(tenant, name).lasts(place, passed)
        self._make_room()

    def shifted(self, path: Path) -> None:
        """What was seen so far of that tenant's gaps says little of what will come."""
        widest = path[0]
        tenant = self._tenants.get(widest)
        if tenant is None:
            return
        kept = {n: h for n, h in tenant.histories.items() if n == widest or _of_session(n)}
        if widest in kept:
            kept[widest].shrink(_KEPT_AFTER_SHIFT)
        self._count += len(kept) - len(tenant.histories)
        tenant.histories = OrderedDict(kept)
        tenant.merits = dict.fromkeys(tenant.merits, 0.0)

    def _tenant(self, path: Path) -> _Tenant:
        if path[0] not in self._tenants:
            self._tenants[path[0]] = _Tenant()
        return self._tenants[path[0]]

    def _history(self, tenant: _Tenant, name: Name) -> History:
        history = tenant.histories.get(name)
        if history is None:
            history = tenant.histories[name] = _history(name, self._tally)
            self._count += 1
        else:
            tenant.histories.move_to_end(name)
        return history

    def _make_room(self) -> None:
        """By what the tenant with most has not used for longest: nobody pushes out another's by
        making many."""
        while self._count > _MOST:
            name, tenant = max(self._tenants.items(), key=lambda each: len(each[1].histories))
            tenant.histories.popitem(last=False)
            self._count -= 1
            if not tenant.histories:
                del self._tenants[name]


def path_of(end: TurnEnd) -> Path:
    """Of the gap that begins with ``end``."""
    path: Path = (
        ("tenant", tenant_of(end.session)),
        ("lately", ""),
        ("hour", str(end.hour // _HOURS)),
        ("turn", str(sum(end.turn >= turn for turn in _LATER_TURNS))),
        ("session", end.session),
    )
    if not end.tool:
        return path
    tool = end.tool[:_LONGEST_TOOL]
    return (*path, ("tool", tool), ("session's tool", tool, end.session))


def _of_session(name: Name) -> bool:
    return name[0].startswith("session")


def _history(name: Name, tally: Tally) -> History:
    """A new one of a class. On recorded coding sessions, half as much or twice as much strength or
    memory is as good for strangers' gaps, and worse by 1 % at most for a session's own, which are
    soon believed: what it does now says more than what it did an hour ago."""
    if _of_session(name):
        return History(tally, strength=4.0, half_life=10)
    return History(tally, strength=8.0, half_life=100 if name[0] == "lately" else 2000)
