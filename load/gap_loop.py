"""Sessions as gaps alone: what was awaited, and for how long; recorded or made up, run in a closed
loop against what predicts them."""

import heapq
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cache_tiers.returns.types import Awaits, Outlook, TurnEnd
from cache_tiers.types import SessionKey
from load.traces import Request

ANSWER_S: Final = 8.0
"""Mean time of a turn; exponential."""
BEGINS_S: Final = 600.0
"""Mean time after which a user begins; exponential."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A turn's end and what followed."""

    awaits: Awaits
    tool: str
    seconds: float


Session = Sequence[Gap]


def recorded(requests: Iterable[Request], dice: random.Random) -> dict[str, list[Session]]:
    """Sessions by scope: a session and its sub-agents belong together."""
    latest: dict[str, Request] = {}
    sessions: dict[str, list[Gap]] = {}
    scopes: dict[str, list[Session]] = {}
    for request in requests:
        before = latest.get(request.session)
        if before is None:
            sessions[request.session] = []
            scopes.setdefault(request.scope, []).append(sessions[request.session])
        elif request.gap_s is not None:
            seconds = max(0.0, request.gap_s + dice.uniform(-0.5, 0.5))
            sessions[request.session].append(Gap(before.awaits, before.tool, seconds))
        latest[request.session] = request
    return scopes


def customer_service(dice: random.Random) -> Iterator[Session]:
    """Conversations without end: a person answers after a median of 45 s, one turn in four calls a
    tool of some 2 s."""
    while True:
        yield [
            Gap(Awaits.TOOL, "look_up", dice.lognormvariate(math.log(2.0), 0.5))
            if dice.random() < 0.25
            else Gap(Awaits.PERSON, "", dice.lognormvariate(math.log(45.0), 0.8))
            for _ in range(dice.randint(5, 30))
        ]


class Model(Protocol):
    """The part of ``Returns`` that is judged."""

    def ended(self, end: TurnEnd, now: float) -> None: ...
    def returned(self, session: SessionKey, now: float) -> None: ...
    def forget(self, session: SessionKey, now: float) -> None: ...
    def outlook(self, session: SessionKey) -> Outlook | None: ...


class ClosedLoop:
    """So many users, each at one session after another, on one clock."""

    def __init__(self, model: Model, users: int, dice: random.Random) -> None:
        self._model = model
        self._users = users
        self._dice = dice
        self._now = 0.0
        self._begun = 0

    def run(
        self, sessions: Iterable[Session], most: int | None = None
    ) -> Iterator[tuple[Outlook, float]]:
        """Each gap's length in seconds and the outlook from its beginning, before the model learns
        it; ``most`` of them at most. Sessions that are away at the end are forgotten."""
        waiting = iter(sessions)
        coming: list[tuple[float, int, int, Session, Outlook | None]] = []
        """Ends of answers, and of gaps, whose outlook they have; of each session one."""
        gaps = 0

        def begin(at: float) -> None:
            session = next(waiting, None)
            if session is not None:
                self._begun += 1
                answer(at, self._begun, 0, session)

        def answer(at: float, number: int, turn: int, session: Session) -> None:
            if turn == len(session):
                begin(at)
                return
            ended = at + self._dice.expovariate(1 / ANSWER_S)
            heapq.heappush(coming, (ended, number, turn, session, None))

        for _ in range(self._users):
            begin(self._now + self._dice.expovariate(1 / BEGINS_S))
        while coming and gaps != most:
            self._now, number, turn, session, outlook = heapq.heappop(coming)
            key, gap = SessionKey(f"local/{number}"), session[turn]
            if outlook is not None:
                yield outlook, gap.seconds
                self._model.returned(key, self._now)
                gaps += 1
                answer(self._now, number, turn + 1, session)
                continue
            end = TurnEnd(session=key, awaits=gap.awaits, tool=gap.tool, turn=turn + 1)
            self._model.ended(end, self._now)
            outlook = self._model.outlook(key)
            assert outlook is not None
            heapq.heappush(coming, (self._now + gap.seconds, number, turn, session, outlook))
        for _, number, _, _, outlook in coming:
            if outlook is not None:
                self._model.forget(SessionKey(f"local/{number}"), self._now)
