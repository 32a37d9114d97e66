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

from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.eviction.recency import Recency
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import SessionKey
from load.simulate.chains import Chains, Session
from load.simulate.engine import Engine, Prompt
from load.simulate.link import Done, Link
from load.simulate.model import LoadAt, SimulationConfig
from load.simulate.outcome import Outcome, Tally
from load.simulate.policies import Policies
from load.simulate.prefetcher import Prefetcher
from load.simulate.source import Arrival, Source, Visit
from load.simulate.tier import Tier

DRAM, DEVICE, SSD = range(3)
"""Levels of ``Chains``."""


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
    loads: bool = False
    """Whether it waits for SSD."""
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
        hardware = config.hardware
        if hardware.chunk_tokens % block_tokens:
            raise ValueError(f"a chunk is a multiple of {block_tokens} tokens")
        self._config = config
        self._source = source
        self._policies = policies
        self._tokens = hardware.chunk_tokens
        self._events: list[tuple[float, int, Done]] = []
        self._scheduled = 0
        self._arrivals: Iterator[Arrival] = iter(())
        self._sessions: dict[SessionKey, Session] = {}
        self._chains = Chains(hardware.chunk_tokens // block_tokens)
        self._tally = Tally(config.warm_up_turns)
        self._engine = Engine(config.engine, self._schedule)
        chunk = hardware.chunk_bytes
        self._dram = self._tier(DRAM, hardware.dram_bytes, policies.dram)
        self._device = self._tier(DEVICE, hardware.device_bytes, policies.device)
        self._ssd = self._tier(SSD, hardware.ssd_bytes, policies.ssd)
        self._tiers = [self._dram]
        """Those that keep something of sessions that are away, and have a limit."""
        if policies.device is not None:
            self._tiers.append(self._device)
        if hardware.ssd_bytes < math.inf:
            self._tiers.append(self._ssd)
        self._loads, self._copies = (
            Link(tier, bandwidth / chunk, config.piece_s, self._schedule)
            for tier, bandwidth in (
                (self._dram, hardware.ssd_bandwidth),
                (self._device, hardware.device_bandwidth),
            )
        )
        self._prefetchers = tuple(
            Prefetcher(planner, link, self._sessions, below, self._schedule, config.plan_every_s)
            for planner, link, below in (
                (policies.planner, self._loads, self._stored),
                (policies.device_planner, self._copies, lambda session: session.present[DRAM]),
            )
        )
        self._queue: deque[_Turn] = deque()
        self._running = 0
        self._blocks = 0
        """Of the device, that running requests take. In chunks."""
        self._ended = 0
        self._open: dict[SessionKey, int] = {}
        """Sessions that users have open, and the chunks of their chains."""

    def run(self) -> Outcome:
        """From the first event to the last."""
        self._arrivals = self._source.begin()
        self._pull()
        events = self._events
        turns = math.inf if self._config.turns is None else self._config.turns
        handled = 0
        now = 0.0
        while events and self._ended < turns:
            now, _, event = heapq.heappop(events)
            handled += 1
            event(now)
            if self._queue:
                self._serve(now)
            for prefetcher in self._prefetchers:
                prefetcher.settle(now)
        return self._tally.outcome(now, handled, self._loads.fetched * self._tokens)

    # --- time ----------------------------------------------------------------------------------

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

    # --- what is known of sessions -------------------------------------------------------------

    def _tier(self, level: int, size: float, policy: PrefixPolicy | None) -> Tier:
        capacity = self._config.hardware.chunks(size)
        order = Recency() if policy is None else policy
        return Tier(level, capacity, order, self._chains, self._sessions, partial(self._cut, level))

    def _session(self, visit: Visit) -> Session:
        session = self._sessions.get(visit.session)
        if session is None:
            session = self._sessions[visit.session] = Session(visit.session, visit.scope)
            if visit.number:
                # Its earlier turns ran before the simulation began; all of it is on SSD.
                self._chains.place(session, visit.requests[visit.number - 1].runs)
                self._take(self._ssd, session, self._chains.chunks(session), 0.0)
                session.present[SSD] = session.claimed[SSD]
        return session

    def _stored(self, session: Session) -> int:
        """Chunks that SSD has; where it has no limit, all that was ever computed."""
        if self._ssd.capacity == math.inf:
            return self._chains.chunks(session)
        return session.present[SSD]

    def _take(self, tier: Tier, session: Session, chunks: int, now: float) -> None:
        """Room for so much of a session that is in use."""
        more = chunks - session.claimed[tier.level]
        if more > 0:
            tier.make_room(more, now)
            tier.claim(session, chunks, now)

    def _cut(self, level: int, session: Session, before: int, now: float) -> None:
        """A tier has cut a session of which ``before`` chunks had been present."""
        if level == DEVICE:
            self._copies.shortened(session, now)
        elif level == DRAM:
            self._loads.shortened(session, now)
            start, present = session.fetched_from, session.present[DRAM]
            if start is not None:
                self._tally.lost(max(0, before - max(start, present)) * self._tokens)
                if present <= start:
                    session.fetched_from = None

    def _opened(self, session: Session, now: float) -> None:
        """Its user has it open; its chain may have changed."""
        chunks = self._chains.chunks(session)
        grown = chunks - self._open.get(session.key, 0)
        self._open[session.key] = chunks
        self._tally.live.set(self._tally.live.value + grown * self._tokens, now)

    def _closed(self, session: Session, now: float) -> None:
        """Its user has left, and says nothing."""
        chunks = self._open.pop(session.key, 0)
        self._tally.live.set(self._tally.live.value - chunks * self._tokens, now)
        turns = session.turns
        self._schedule(now + self._config.linger_s, lambda now: self._forget(session, turns, now))

    def _forget(self, session: Session, turns: int, now: float) -> None:
        if session.turns != turns:
            return
        self._meet(session, 0, now)
        for tier in self._tiers:
            tier.claim(session, 0, now)
            tier.policy.forget(session.key)
        if self._policies.returns is not None:
            self._policies.returns.forget(session.key, now)
        self._chains.remove(session)
        del self._sessions[session.key]

    def _changed(self) -> None:
        for prefetcher in self._prefetchers:
            prefetcher.changed()

    # --- a turn --------------------------------------------------------------------------------

    def _arrive(self, visit: Visit, now: float) -> None:
        """The first byte of a request."""
        request = visit.request
        session = self._session(visit)
        session.locked = True
        session.turns += 1
        if self._policies.returns is not None:
            self._policies.returns.returned(session.key, now)
        own, known = self._chains.known(session, request.runs)
        self._meet(session, own, now)
        for tier in self._tiers:
            tier.policy.began(session.key, now)
            tier.claim(session, min(own, session.claimed[tier.level]), now)
        self._chains.place(session, request.runs)
        for tier in self._tiers:
            tier.share(session, now)
        self._opened(session, now)
        reusable = min(known, (request.input_tokens - 1) // self._tokens)
        blocks = -(-(request.input_tokens + request.output_tokens) // self._tokens)
        turn = _Turn(visit, session, now, reusable, blocks)
        lead_s = self._config.engine.lead(request.input_tokens)
        if self._config.load_at is LoadAt.FIRST_BYTE:
            self._load(turn, lead_s, now)
        self._schedule(now + lead_s, lambda now: self._wait(turn, now))
        self._changed()

    def _meet(self, session: Session, own: int, now: float) -> None:
        """A request comes upon what was prefetched for it; ``own`` chunks of it are of use."""
        late = self._loads.fetching(session)
        self._loads.drop(session, now)
        self._copies.drop(session, now)
        start = session.fetched_from
        if start is not None:
            present = session.present[DRAM]
            used = max(0, min(present, own) - start)
            self._tally.returned(used * self._tokens, (present - start - used) * self._tokens, late)
            session.fetched_from = None

    def _wait(self, turn: _Turn, now: float) -> None:
        """The request has been read."""
        self._queue.append(turn)
        if self._config.load_at >= LoadAt.QUEUED:
            self._load(turn, 0.0, now)
        self._serve(now)

    def _load(self, turn: _Turn, spare_s: float, now: float) -> bool:
        """Load what is missing if that is quicker than to compute it, ``spare_s`` of it being
        nobody's loss; returns whether it is being loaded."""
        session = turn.session
        self._loads.sync(now)
        here = max(session.present[DRAM], min(session.present[DEVICE], turn.reusable))
        upto = min(turn.reusable, self._stored(session))
        if here >= upto:
            return False
        wait_s = self._loads.wait_s(session, upto, now) - spare_s
        if wait_s > self._config.engine.prefill(here * self._tokens, upto * self._tokens):
            self._loads.drop(session, now)
            return False
        if not self._loads.loading(session):
            self._take(self._dram, session, upto, now)
            self._loads.demand(session, upto, now, lambda now: self._loaded(turn, now))
        return True

    def _serve(self, now: float) -> None:
        """The scheduler asks for the KV of requests as long as it can begin them."""
        while self._queue and not self._engine.prefilling:
            turn = self._queue[0]
            if self._running and (
                self._running >= self._config.engine.most_running
                or self._blocks + turn.blocks > self._device.capacity
            ):
                return
            self._queue.popleft()
            self._ask(turn, now)

    def _ask(self, turn: _Turn, now: float) -> None:
        session = turn.session
        self._running += 1
        self._blocks += turn.blocks
        for tier in self._tiers:
            tier.share(session, now)
        loading = self._load(turn, 0.0, now)
        device = min(turn.reusable, session.present[DEVICE])
        hot = max(device, min(turn.reusable, session.present[DRAM]))
        turn.start = min(turn.reusable, self._stored(session)) if loading else hot
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
        chunks = self._chains.chunks(session)
        for tier in self._tiers:
            if tier is not self._ssd:
                self._take(tier, session, chunks, now)
        turn.loads = loading
        turn.waits = loading
        if hot > device:
            turn.waits += 1
            self._copies.demand(session, hot, now, lambda now: self._ready(turn, now))
        if not turn.waits:
            self._compute(turn, now)

    def _loaded(self, turn: _Turn, now: float) -> None:
        if turn.loads:
            turn.loads = False
            self._ready(turn, now)

    def _ready(self, turn: _Turn, now: float) -> None:
        """One thing fewer to wait for."""
        self._changed()
        turn.waits -= 1
        if not turn.waits:
            self._compute(turn, now)

    def _compute(self, turn: _Turn, now: float) -> None:
        request = turn.visit.request
        prompt = Prompt(
            start=min(turn.start * self._tokens, request.input_tokens - 1),
            end=request.input_tokens,
            output=request.output_tokens,
            first_token=lambda now: self._tally.first_token(now - turn.arrived),
            answered=lambda now: self._end(turn, now),
        )
        self._engine.submit(prompt, now)

    def _end(self, turn: _Turn, now: float) -> None:
        """The answer is complete."""
        session, visit = turn.session, turn.visit
        request, upcoming = visit.request, visit.upcoming
        self._ended += 1
        self._running -= 1
        self._blocks -= turn.blocks
        self._tally.in_use.set(self._blocks * self._tokens, now)
        self._chains.extend(session, request.answer_runs)
        chunks = self._chains.chunks(session)
        for tier in self._tiers:
            self._take(tier, session, chunks, now)
            session.present[tier.level] = chunks
        session.locked = False
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
                needed = self._chains.known(session, arrival.request.runs)[0]
        if self._policies.foresight is not None:
            self._policies.foresight.foresee(session.key, returns_at, needed)
        for tier in self._tiers:
            tier.policy.ended(session.key, chunks, now)
            tier.make_room(0, now)
        if self._policies.device is None:
            session.present[DEVICE] = 0
        if upcoming is None:
            self._closed(session, now)
        else:
            self._opened(session, now)
        self._changed()
        self._serve(now)
