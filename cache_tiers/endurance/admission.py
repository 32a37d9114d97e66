"""Which chunks are worth a write.

A chunk is worth what it will save: how often it will be read again, times what it costs to compute
again. It is written now when that is above the price, which rises as the day's budget empties.

*Reads.* A session that ended turn ``n`` goes on to turn ``n + 1`` with the share ``s`` of those
before it that did (``Survival``: by turn number and size of the context). Clients rewrite their
history, mostly its later part: a chunk so far into the prompt is still in the next turn's with the
share ``k`` of those before it. So, for one chunk::

    g(n) = s(n)·k        reads(n) = g(n)·(1 + reads(n + 1))        reads(LAST) = g/(1 − g)

*Price.* Nothing while half of the bucket is there, for bursts; below that the worth that a rising
share of the recent demand was below (``Demand``), up to all of it with an empty bucket. It settles
where as much is admitted as flows in.

*Chain.* A chunk is of no use without all before it. Written is therefore the beginning of the
chain for which worth − price adds up to most; the rest waits for the next turn or for a park.

Pure and deterministic. One thread: the one that notes that turns end.
"""

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.endurance.demand import Demand
from cache_tiers.endurance.survival import Cell, Survival
from cache_tiers.types import SessionKey

LAST_TURN = 4
"""Sessions that come so far are taken as alike: of those recorded, as many go on after 4 turns as
after 100."""
_GOES_ON = 0.9
_STAYS = 0.98
"""What to believe before anything was seen: a coding agent's session, about."""
_CERTAIN = 0.999
"""Nothing is taken to be read more than a thousand times."""
_PLENTY = 0.5
"""With so much of a day's budget left nothing waits."""
_FIRST_PLACE_TOKENS = 1024
_PLACES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """Of one store."""

    chunk_tokens: int
    chunk_bytes: int
    """What a chunk takes from the budget."""
    min_tokens: int
    """Contexts of fewer tokens are not written."""
    sessions: int = 4096
    """So many are remembered, those whose turns ended last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A session's whole chunks, from the context's beginning on, when a turn of it has ended."""

    session: SessionKey
    chunks: int
    kept: int
    """Leading chunks that the context of the turn before had, too; 0 for a new session."""
    stored: int
    """Leading chunks that the store holds."""
    shared: int = 0
    """Leading chunks that another session has, too."""


@dataclass(frozen=True, slots=True)
class Decision:
    """About the chunks of a chain behind those that are stored."""

    write: int
    """So many, from the first on, are to be written now."""
    wait: int
    """The rest: asked about again when the next turn ends, or at a park."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A session's latest turn."""

    turn: int
    chunks: int


@dataclass(frozen=True, slots=True)
class _Run:
    """Chunks ``start … end`` of a chain that are worth the same."""

    start: int
    end: int
    worth: float
    """Of each."""


class Admission:
    """See the module's docstring. Looks at the budget and takes nothing from it: who writes, takes
    first. Without a budget everything above the minimum is written at once."""

    def __init__(self, config: AdmissionConfig, cost: Callable[[int, int], float]) -> None:
        """``cost(start, end)``: what it takes to compute the tokens ``start … end`` of a prompt,
        in any unit; 0 while that is not known."""
        self._config = config
        self._cost = cost
        self._sessions: OrderedDict[SessionKey, _Seen] = OrderedDict()
        self._turns = Survival(_GOES_ON)
        self._places = Survival(_STAYS)
        self._demand = Demand()
        per_place = _FIRST_PLACE_TOKENS / config.chunk_tokens
        self._place_starts = [math.ceil((2 ** (n / 2) - 1) * per_place) for n in range(_PLACES)]
        """First chunk of each place: half octaves of the position in the prompt."""

    def turn_ended(self, chain: Chain, budget: WriteBudget | None) -> Decision:
        """What to write of a session's chain. Once a turn, in the order in which turns end."""
        turn = self._learn(chain)
        waiting = max(0, chain.chunks - chain.stored)
        if not waiting or self._below_minimum(chain):
            return Decision(0, waiting)
        runs = self._runs(chain, turn)
        for run in runs:
            # What waited has asked before.
            self._demand.add(run.worth, max(0, run.end - max(run.start, chain.kept)))
        if budget is None:
            return Decision(waiting, 0)
        price = self._demand.price(max(0.0, 1 - budget.fraction_left / _PLENTY))
        write = min(_best_end(runs, price) - chain.stored, self._affordable(budget))
        return Decision(write, waiting - write)

    def parked(self, chain: Chain, budget: WriteBudget | None) -> Decision:
        """What to write when somebody asks for the session to be parked: all that the budget pays
        for, at whatever price."""
        waiting = max(0, chain.chunks - chain.stored)
        if self._below_minimum(chain):
            return Decision(0, waiting)
        write = waiting if budget is None else min(waiting, self._affordable(budget))
        return Decision(write, waiting - write)

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self._sessions.pop(session, None)

    # --- what is learned -----------------------------------------------------------------------

    def _learn(self, chain: Chain) -> int:
        """Note the turn; returns its number, from 1."""
        before = self._sessions.pop(chain.session, None)
        if before is not None:
            turn = before.turn + 1
            self._turns.went_on(self._turn_cell(before.turn, before.chunks))
            self._learn_places(before.chunks, chain.kept)
        else:
            # One that brings chunks from a turn not remembered here has gone on before.
            turn = 2 if chain.kept else 1
        self._turns.reached(self._turn_cell(turn, chain.chunks))
        self._sessions[chain.session] = _Seen(turn, chain.chunks)
        if len(self._sessions) > self._config.sessions:
            self._sessions.popitem(last=False)
        return turn

    def _learn_places(self, chunks: int, kept: int) -> None:
        """The first ``kept`` of ``chunks`` are in the next turn's context, the others are not."""
        for place, start, end in self._pieces(0, chunks):
            self._places.reached(place)
            self._places.went_on(place, max(0, min(end, kept) - start) / (end - start))

    def _turn_cell(self, turn: int, chunks: int) -> Cell:
        return min(turn, LAST_TURN), (chunks * self._config.chunk_tokens).bit_length()

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Cell, int, int]]:
        """The chunks ``start … end`` by place."""
        while start < end:
            place = bisect_right(self._place_starts, start)
            stop = end if place == _PLACES else min(end, self._place_starts[place])
            yield (place,), start, stop
            start = stop

    # --- what follows from it ------------------------------------------------------------------

    def _runs(self, chain: Chain, turn: int) -> list[_Run]:
        """All that waits."""
        shared = min(max(chain.shared, chain.stored), chain.chunks)
        return [
            # What two sessions share has been seen again: it is past its first turn.
            *self._worths(chain, max(turn, LAST_TURN), chain.stored, shared),
            *self._worths(chain, turn, shared, chain.chunks),
        ]

    def _worths(self, chain: Chain, turn: int, start: int, end: int) -> Iterator[_Run]:
        """A chunk's worth: its expected reads, each counted as what computing the chunk takes
        beside computing the first of a chain."""
        tokens = self._config.chunk_tokens
        first = self._cost(0, tokens)
        for place, begin, stop in self._pieces(start, end):
            worth = self._reads(turn, chain.chunks, place)
            if first > 0:
                cost = self._cost(begin * tokens, stop * tokens) / (stop - begin)
                worth *= max(1.0, cost / first)
            yield _Run(begin, stop, worth)

    def _reads(self, turn: int, chunks: int, place: Cell) -> float:
        stays = self._places.share(place)
        reads = 0.0
        for n in range(LAST_TURN, min(turn, LAST_TURN) - 1, -1):
            again = min(_CERTAIN, stays * self._turns.share(self._turn_cell(n, chunks)))
            reads = again * (1 + reads) if n < LAST_TURN else again / (1 - again)
        return reads

    def _below_minimum(self, chain: Chain) -> bool:
        return chain.chunks * self._config.chunk_tokens < self._config.min_tokens

    def _affordable(self, budget: WriteBudget) -> int:
        return budget.level // self._config.chunk_bytes


def _best_end(runs: list[_Run], price: float) -> int:
    """Where to stop so that worth − price adds up to most; at the furthest such place."""
    best = runs[0].start
    total = largest = 0.0
    for run in runs:
        total += (run.worth - price) * (run.end - run.start)
        if total >= largest:
            best, largest = run.end, total
    return best
