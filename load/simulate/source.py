"""Where requests come from: users who wait for answers, or arrivals that do not."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from cache_tiers.types import SessionKey
from load.traces import Request


@dataclass(slots=True, eq=False)
class Visit:
    """A session's requests, one after another, each behind the answer to the one before it."""

    session: SessionKey
    scope: str
    requests: list[Request]
    called: dict[int, list["Visit"]] = field(default_factory=dict)
    """Sub-agents by the number of the request whose answer calls them."""
    number: int = 0
    """Of the request that is next or under way."""
    user: int | None = None
    """Who goes on with another session when this one is over."""

    @property
    def request(self) -> Request:
        """The next, or the one under way."""
        return self.requests[self.number]

    @property
    def upcoming(self) -> Request | None:
        """Behind it."""
        after = self.number + 1
        return self.requests[after] if after < len(self.requests) else None


_PREFIX = "trace/"

Arrival = tuple[float, Visit]
"""When a visit's ``request`` comes."""


class Source(Protocol):
    """Requests as they come. One run's; asked in the order of time."""

    def begin(self) -> Iterator[Arrival]:
        """Those that do not depend on answers, in the order of time."""
        ...

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """What follows the answer to ``visit.request``, now; moves the visit on."""
        ...


class ClosedLoop:
    """``users`` who each go through one session after another, and wait as the trace's did.

    At first each is somewhere within a session, at a moment drawn evenly over all that the trace
    has, so that the load is from the beginning as it will be: most users are in long gaps. Later
    sessions come in a random order, none again before all have come; the same again is another
    session. A trace without gaps has those of its times.
    """

    def __init__(self, trace: Iterable[Request], users: int, seed: int = 0) -> None:
        self._dice = random.Random(seed)
        self._families = _families(trace)
        self._users = users
        self._order: list[str] = []
        self._round = 0
        if not self._families:
            raise ValueError("a trace without requests")

    def begin(self) -> Iterator[Arrival]:
        """See ``Source``."""
        names = list(self._families)
        lengths = [
            sum(_cycle(each) for each in requests if each.session == name)
            for name, requests in self._families.items()
        ]
        arrivals = []
        for user, name in enumerate(self._dice.choices(names, lengths, k=self._users)):
            visit = _visit(self._families[name], f"@{user}", user)
            cycles = [_cycle(each) for each in visit.requests]
            visit.number = self._dice.choices(range(len(cycles)), cycles)[0]
            arrivals.append((self._dice.random() * cycles[visit.number], visit))
        yield from sorted(arrivals, key=lambda arrival: arrival[0])

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """See ``Source``."""
        for child in visit.called.get(visit.number, ()):
            yield now + _gap(child.request), child
        if visit.upcoming is not None:
            visit.number += 1
            yield now + _gap(visit.request), visit
        elif visit.user is not None:
            yield now, self._next(visit.user)

    def _next(self, user: int) -> Visit:
        if not self._order:
            self._order = list(self._families)
            self._dice.shuffle(self._order)
            self._round += 1
        return _visit(self._families[self._order.pop()], f"#{self._round}", user)


class OpenLoop:
    """Requests at the trace's times, whatever becomes of the answers; one that would come before
    its session's last answer comes with that. Streams: what is ahead is not read, so nothing can
    be foreseen; see ``Recorded``."""

    def __init__(self, trace: Iterable[Request]) -> None:
        self._trace = trace
        self._busy: dict[str, list[Request]] = {}

    def begin(self) -> Iterator[Arrival]:
        """See ``Source``."""
        for request in self._trace:
            waiting = self._busy.get(request.session)
            if waiting is None:
                self._busy[request.session] = []
                yield request.at_s, _single(request)
            else:
                waiting.append(request)

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """See ``Source``."""
        session = visit.request.session
        waiting = self._busy[session]
        if waiting:
            request = waiting.pop(0)
            yield max(now, request.at_s), _single(request)
        else:
            del self._busy[session]


class Recorded:
    """As ``OpenLoop``, with the whole trace read beforehand."""

    def __init__(self, trace: Iterable[Request], *, before: int = 0) -> None:
        """``before``: so many first turns of each session were before the run, and are on SSD."""
        self._before = before
        self._visits: dict[str, Visit] = {}
        requests: dict[str, list[Request]] = {}
        for request in trace:
            own = requests.setdefault(request.session, [])
            own.append(request)
            if len(own) == 1:
                key = SessionKey(f"{_PREFIX}{request.session}")
                self._visits[request.session] = Visit(key, request.scope, own)

    def begin(self) -> Iterator[Arrival]:
        """See ``Source``."""
        visits = [v for v in self._visits.values() if len(v.requests) > self._before]
        for visit in visits:
            visit.number = self._before
        arrivals = [(visit.request.at_s, visit) for visit in visits]
        yield from sorted(arrivals, key=lambda arrival: arrival[0])

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """See ``Source``."""
        if visit.upcoming is not None:
            visit.number += 1
            yield max(now, visit.request.at_s), visit


def _single(request: Request) -> Visit:
    return Visit(SessionKey(f"{_PREFIX}{request.session}"), request.scope, [request])


def _families(trace: Iterable[Request]) -> dict[str, tuple[Request, ...]]:
    """Each session's requests with its sub-agents', every one with a gap."""
    families: dict[str, list[Request]] = {}
    roots: dict[str, str] = {}
    before: dict[str, Request] = {}
    for request in trace:
        gap_s = request.gap_s
        last = before.get(request.session)
        if gap_s is None:
            gap_s = max(0.0, request.at_s - last.at_s) if last else 0.0
        before[request.session] = request
        root = roots.get(request.parent, request.parent) or request.session
        roots[request.session] = root
        families.setdefault(root, []).append(replace(request, gap_s=gap_s))
    return {root: tuple(requests) for root, requests in families.items()}


def origin(session: SessionKey) -> str:
    """The session of the trace that a simulated one repeats."""
    name = session.removeprefix(_PREFIX)
    return name[: max(name.rfind("@"), name.rfind("#"), 0)] or name


def _visit(requests: Sequence[Request], tag: str, user: int) -> Visit:
    visits: dict[str, Visit] = {}
    own: dict[str, list[Request]] = {}
    for request in requests:
        name = request.session
        if name not in visits:
            key = SessionKey(f"{_PREFIX}{name}{tag}")
            own[name] = []
            visits[name] = Visit(key, request.scope + tag, own[name])
            parent = visits.get(request.parent)
            if parent is not None:
                called = max(0, len(parent.requests) - 1)
                parent.called.setdefault(called, []).append(visits[name])
        own[name].append(request)
    first = next(iter(visits.values()))
    first.user = user
    return first


_ANSWER_S = 10.0
"""From a request to its answer, about."""


def _cycle(request: Request) -> float:
    return _gap(request) + _ANSWER_S


def _gap(request: Request) -> float:
    return request.gap_s or 0.0
