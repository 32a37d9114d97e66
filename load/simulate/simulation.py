"""A run: requests, tiers, links and an engine, event by event.

The life of a request: its first byte arrives, and a turn begins; it is read and queued; when the
engine has room and computes no other prompt, the scheduler asks for its KV, and decides between
loading what is missing and computing it; what is in DRAM, or comes there, is copied to the device;
the rest of the prompt is computed, the answer decoded; the turn ends, and the source says what
comes next.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from cache_tiers.arbiter import Hit, Run, choose
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import Tier
from load.simulate.chains import Session
from load.simulate.costs import QueuedLoad
from load.simulate.engine import Engine, Prompt
from load.simulate.link import Done
from load.simulate.model import LoadAt, SimulationConfig
from load.simulate.outcome import Outcome, Tally
from load.simulate.policies import Policies
from load.simulate.prefetcher import Prefetcher
from load.simulate.sessions import DEVICE, DRAM, Sessions
from load.simulate.source import Arrival, Source, Visit


@dataclass(slots=True, eq=False)
class _Turn:
    """A request under way. Sizes in chunks."""

    visit: Visit
    session: Session
    arrived: float
    reusable: int
    """Leading chunks that an infinite cache would have had."""
    blocks: int
    """Of the device, that it takes while it runs."""
    asked: bool = False
    """Whether the scheduler has asked for its KV."""
    loads: bool = False
    """Whether it waits for SSD."""
    copies: bool = False
    """Whether it waits for what is copied from DRAM to the device."""
    waits: int = 0
    """Loads and copies that it waits for."""
    start: int = 0
    """Chunks that are not computed."""


class Simulation:
    """One run of a source with policies. ``run`` once."""

    def __init__(
        self, config: SimulationConfig, block_tokens: int, source: Source, policies: Policies
    ) -> None:
        """``block_tokens``: of the source's requests. Raises ValueError unless a chunk is whole
        blocks."""
        self._config = config
        self._source = source
        self._policies = policies
        self._tokens = config.hardware.chunk_tokens
        self._events: list[tuple[float, int, Done]] = []
        self._scheduled = 0
        self._arrivals: Iterator[Arrival] = iter(())
        self._tally = Tally(config.warm_up_turns)
        self._engine = Engine(config.engine, self._schedule)
        sessions = Sessions(config, policies, block_tokens, self._tally, self._schedule)
        self._sessions = sessions
        if policies.on_ssd is not None:
            policies.on_ssd.bind(sessions.stored_of)
        self._prefetchers = tuple(
            Prefetcher(planner, link, sessions.known, below, self._schedule, config.plan_every_s)
            for planner, link, below in (
                (policies.planner, sessions.loads, sessions.stored),
                (policies.device_planner, sessions.copies, lambda session: session.present[DRAM]),
            )
        )
        self._queue: deque[_Turn] = deque()
        self._running = 0
        self._blocks = 0
        """Of the device, that running requests take. In chunks."""
        self._ended = 0
        self._ended_at = 0.0

    def run(self) -> Outcome:
        """From the first event to the end of the last turn."""
        self._arrivals = self._source.begin()
        self._pull()
        events = self._events
        turns = math.inf if self._config.turns is None else self._config.turns
        handled = 0
        while events and self._ended < turns:
            now, _, event = heapq.heappop(events)
            handled += 1
            event(now)
            if self._queue:
                self._serve(now)
            for prefetcher in self._prefetchers:
                prefetcher.settle(now)
        loads, tokens = self._sessions.loads, self._tokens
        return self._tally.outcome(
            self._ended_at, handled, loads.fetched * tokens, loads.loaded * tokens
        )

    def _schedule(self, at: float, event: Done) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (at, self._scheduled, event))

    def _pull(self) -> None:
        """Schedule the next of the arrivals that depend on nothing."""
        arrival = next(self._arrivals, None)
        if arrival is not None:
            at, visit = arrival

            def arrive(now: float) -> None:
                self._pull()
                self._arrive(visit, now)

            self._schedule(at, arrive)

    def _changed(self) -> None:
        for prefetcher in self._prefetchers:
            prefetcher.changed()

    def _arrive(self, visit: Visit, now: float) -> None:
        """The first byte of a request."""
        request = visit.request
        session = self._sessions.of(visit)
        known = self._sessions.begin(session, request.runs, now)
        # The last token is always computed.
        reusable = min(known, (request.input_tokens - 1) // self._tokens)
        blocks = -(-(request.input_tokens + request.output_tokens) // self._tokens)
        turn = _Turn(visit, session, now, reusable, blocks)
        lead_s = self._config.engine.lead(request.input_tokens)
        if self._config.load_at is LoadAt.FIRST_BYTE:
            self._schedule(self._engine.step_ends(now), lambda now: self._bring_up(turn, now))
        self._schedule(now + lead_s, lambda now: self._read(turn, now))
        self._changed()

    def _bring_up(self, turn: _Turn, now: float) -> None:
        """The engine knows of the first byte."""
        if not turn.asked:
            self._load(turn, now)
            if self._policies.device_planner is not None:
                self._fill(turn, now)

    def _fill(self, turn: _Turn, now: float) -> None:
        """Copy what is in DRAM to the device, as far as there is room."""
        sessions, session = self._sessions, turn.session
        upto = min(turn.reusable, session.present[DRAM])
        if session.present[DEVICE] < upto:
            claimed = sessions.take(sessions.device, session, upto, now, in_use=False)
            if session.present[DEVICE] < claimed:
                done = partial(self._copied, turn)
                sessions.copies.demand(session, min(upto, claimed), now, done)

    def _read(self, turn: _Turn, now: float) -> None:
        """The request has been read."""
        self._schedule(self._engine.step_ends(now), lambda now: self._wait(turn, now))

    def _wait(self, turn: _Turn, now: float) -> None:
        """The engine knows of the request."""
        self._queue.append(turn)
        self._look_ahead(now)

    def _look_ahead(self, now: float) -> None:
        """Load for those that wait, the first first, as far as there is room."""
        if self._config.load_at >= LoadAt.QUEUED:
            for turn in self._queue:
                if not self._load(turn, now):
                    return

    def _load(self, turn: _Turn, now: float, *, running: bool = False) -> bool:
        """Load what is missing; for a request that does not run yet, as far as there is room.
        Returns whether there was for all of it."""
        sessions, session = self._sessions, turn.session
        here = max(session.present[DRAM], min(session.present[DEVICE], turn.reusable))
        upto = min(turn.reusable, sessions.stored(session))
        if here >= upto:
            return True
        claimed = sessions.take(sessions.dram, session, upto, now, in_use=running)
        if here < claimed:
            session.present[DRAM] = here
            sessions.loads.demand(session, min(upto, claimed), now, partial(self._loaded, turn))
        return claimed >= upto

    def _load_or_compute(self, turn: _Turn, now: float) -> bool:
        """Whether what is missing is loaded, and not computed, as the arbiter has it."""
        self._load(turn, now, running=True)
        session, loads = turn.session, self._sessions.loads
        if not loads.loading(session):
            return False
        here, end = session.present[DRAM], min(turn.reusable, self._sessions.stored(session))
        missing = max(1, end - here)
        hit = Hit(
            start=here * self._tokens,
            prompt=turn.visit.request.input_tokens,
            chunk_tokens=self._tokens,
            runs=(Run(Tier.SSD, missing),),
        )
        costs = QueuedLoad(self._config.engine, missing, loads.wait_s(session, now))
        if choose(hit, costs).chunks:
            return True
        loads.drop(session, now)
        return False

    def _serve(self, now: float) -> None:
        """The scheduler asks for the KV of requests as long as it can begin them."""
        while self._queue and not self._engine.prefilling:
            turn = self._queue[0]
            if self._running and (
                self._running >= self._config.engine.most_running
                or self._blocks + turn.blocks > self._sessions.device.capacity
            ):
                return
            self._queue.popleft()
            self._ask(turn, now)

    def _ask(self, turn: _Turn, now: float) -> None:
        sessions, session = self._sessions, turn.session
        turn.asked = True
        self._running += 1
        self._blocks += turn.blocks
        for tier in sessions.tiers:
            tier.share(session, now)
        turn.loads = self._load_or_compute(turn, now)
        sessions.copies.sync(now)
        device = min(turn.reusable, session.present[DEVICE])
        hot = max(device, min(turn.reusable, session.present[DRAM]))
        turn.start = min(turn.reusable, sessions.stored(session)) if turn.loads else hot
        tokens = self._tokens
        self._tally.asked(
            turn.visit.request.input_tokens,
            turn.reusable * tokens,
            device * tokens,
            (hot - device) * tokens,
            (turn.start - hot) * tokens,
            now,
        )
        self._tally.in_use.set(self._blocks * tokens, now)
        for tier in sessions.hot_tiers:
            sessions.take(tier, session, sessions.chains.chunks(session), now, in_use=True)
        turn.waits = int(turn.loads)
        if hot > device:
            turn.waits += 1
            turn.copies = True
            sessions.copies.demand(session, hot, now, partial(self._copied, turn))
        if not turn.waits:
            self._compute(turn, now)

    def _loaded(self, turn: _Turn, now: float) -> None:
        """The last of it is in DRAM. The engine sees that between two steps, copies it during the
        next, and goes on behind that."""
        if turn.loads:
            turn.loads = False
            at = self._engine.step_ends(now)
            self._schedule(
                at,
                lambda now: self._schedule(
                    self._engine.step_ends(now, 1), partial(self._ready, turn)
                ),
            )

    def _copied(self, turn: _Turn, now: float) -> None:
        """What was in DRAM is on the device."""
        if turn.copies:
            turn.copies = False
            self._schedule(self._engine.step_ends(now), partial(self._ready, turn))

    def _ready(self, turn: _Turn, now: float) -> None:
        """One thing fewer to wait for."""
        self._changed()
        turn.waits -= 1
        if not turn.waits:
            self._compute(turn, now)

    def _compute(self, turn: _Turn, now: float) -> None:
        request = turn.visit.request
        prompt = Prompt(
            start=turn.start * self._tokens,
            end=request.input_tokens,
            output=request.output_tokens,
            first_token=lambda now: self._tally.first_token(
                now - turn.arrived + self._config.engine.outside_s
            ),
            answered=lambda now: self._end(turn, now),
        )
        self._engine.submit(prompt, now)

    def _end(self, turn: _Turn, now: float) -> None:
        """The answer is complete."""
        sessions, session, visit = self._sessions, turn.session, turn.visit
        request, last = visit.request, visit.upcoming is None
        self._ended, self._ended_at = self._ended + 1, now
        self._running -= 1
        self._blocks -= turn.blocks
        self._tally.in_use.set(self._blocks * self._tokens, now)
        sessions.end(session, request.answer_runs, now)
        if self._policies.returns is not None:
            end = TurnEnd(
                session=session.key,
                awaits=request.awaits,
                tool=request.tool,
                turn=session.turns,
            )
            self._policies.returns.ended(end, now)
        returns_at, needed = math.inf, 0
        for at, arrival in self._source.answered(visit, now):
            self._schedule(at, partial(self._arrive, arrival))
            if arrival is visit and self._policies.foresight is not None:
                returns_at = at
                needed = sessions.chains.known(session, arrival.request.runs)[0]
        if self._policies.foresight is not None:
            self._policies.foresight.foresee(session.key, returns_at, needed)
        sessions.rest(session, now)
        if last:
            sessions.leave(session, now)
        self._look_ahead(now)
        self._changed()
