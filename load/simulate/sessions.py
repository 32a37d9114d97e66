"""All sessions of a run, and where their KV is: chains, tiers, and the links between these."""

import math
from functools import partial

from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.eviction.recency import Recency
from cache_tiers.types import SessionKey
from load.simulate.chains import Chains, Session
from load.simulate.link import Link, Schedule
from load.simulate.model import SimulationConfig
from load.simulate.outcome import Tally
from load.simulate.policies import Policies
from load.simulate.source import Visit
from load.simulate.tier import Tier
from load.traces import Runs, joined

DRAM, DEVICE, SSD = range(3)
"""Levels of ``Chains``."""


class Sessions:
    """See the module's docstring. Sizes in chunks."""

    def __init__(
        self,
        config: SimulationConfig,
        policies: Policies,
        block_tokens: int,
        tally: Tally,
        schedule: Schedule,
    ) -> None:
        """Raises ValueError unless a chunk is whole blocks."""
        hardware = config.hardware
        if hardware.chunk_tokens % block_tokens:
            raise ValueError(f"a chunk is a multiple of {block_tokens} tokens")
        self._policies = policies
        self._tally = tally
        self._schedule = schedule
        self._linger_s = config.linger_s
        self._tokens = hardware.chunk_tokens
        self.chains = Chains(hardware.chunk_tokens // block_tokens)
        self.known: dict[SessionKey, Session] = {}
        self._open: dict[SessionKey, int] = {}
        """Sessions that users have open, and the chunks of their chains."""

        def tier(level: int, size: float, policy: PrefixPolicy | None) -> Tier:
            order = Recency() if policy is None else policy
            capacity = hardware.chunks(size)
            on_cut = partial(self._cut, level)
            return Tier(level, capacity, order, self.chains, self.known, on_cut)

        self.dram = tier(DRAM, hardware.dram_bytes, policies.dram)
        self.device = tier(DEVICE, hardware.device_bytes, policies.device)
        self.ssd = tier(SSD, hardware.ssd_bytes, policies.ssd)
        self.tiers = [self.dram]
        """Those that keep something of sessions that are away, and have a limit."""
        if policies.device is not None:
            self.tiers.append(self.device)
        self._limited = self.ssd.capacity < math.inf
        """Whether SSD may have less than all that was ever computed."""
        if self._limited:
            self.tiers.append(self.ssd)
        self.hot_tiers = [tier for tier in self.tiers if tier is not self.ssd]
        """Those of them that have a copy of what runs."""
        chunk = hardware.chunk_bytes
        piece_s, from_ssd, to_device = config.piece_s, hardware.ssd_fixed_s, hardware.device_fixed_s
        self.loads = Link(
            self.dram,
            hardware.ssd_bandwidth / chunk,
            piece_s,
            schedule,
            from_ssd,
            hardware.ssd_parallel_chunks,
        )
        self.copies = Link(
            self.device, hardware.device_bandwidth / chunk, piece_s, schedule, to_device
        )

    def of(self, visit: Visit) -> Session:
        """The visit's; a new one that is seen in the middle had its earlier turns before the run,
        and is on SSD."""
        session = self.known.get(visit.session)
        if session is None:
            session = self.known[visit.session] = Session(visit.session, visit.scope)
            if visit.number:
                session.turns = visit.number
                self.chains.place(session, visit.requests[visit.number - 1].runs)
                if self._limited:
                    self.store(session, 0.0)
        return session

    def begin(self, session: Session, runs: Runs, now: float) -> int:
        """A turn begins, with this prompt; returns how many of its leading chunks an infinite cache
        would have had."""
        session.locked = True
        session.turns += 1
        if self._policies.returns is not None:
            self._policies.returns.returned(session.key, now)
        own, known = self.chains.known(session, runs)
        self._meet(session, own, now)
        for tier in self.tiers:
            tier.policy.began(session.key, now)
            tier.claim(session, min(own, session.claimed[tier.level]), now)
        self.chains.place(session, runs)
        for tier in self.tiers:
            tier.share(session, now)
        self._opened(session, now)
        return known

    def take(self, tier: Tier, session: Session, chunks: int, now: float, *, in_use: bool) -> int:
        """Room for so many leading chunks of a session whose turn is under way; unless they are in
        use, only as much as there is. Returns how many have room."""
        more = chunks - session.claimed[tier.level]
        if more > 0:
            tier.make_room(more, now)
            if not in_use:
                more = max(0, int(min(more, tier.room)))
            tier.claim(session, session.claimed[tier.level] + more, now)
        return session.claimed[tier.level]

    def end(self, session: Session, answer: Runs, now: float) -> None:
        """A turn ends; all of the chain is everywhere. Nothing is cut before ``rest``."""
        if answer:
            self.chains.place(session, joined(session.chain, answer))
        for tier in self.hot_tiers:
            self.take(tier, session, self.chains.chunks(session), now, in_use=True)
            session.present[tier.level] = self.chains.chunks(session)
        session.locked = False
        self._opened(session, now)

    def rest(self, session: Session, now: float) -> None:
        """The turn is over, and the policies know what is to be known of the gap."""
        chunks = self.chains.chunks(session)
        if self._limited:
            self.store(session, now)
        for tier in self.tiers:
            tier.policy.ended(session.key, chunks, now)
            tier.make_room(0, now)
        if self.device not in self.tiers:
            session.present[DEVICE] = 0

    def store(self, session: Session, now: float) -> None:
        """Write what SSD has not of a session."""
        chunks = self.chains.chunks(session)
        session.present[SSD] = self.take(self.ssd, session, chunks, now, in_use=False)

    def stored(self, session: Session) -> int:
        """Chunks that SSD has."""
        return session.present[SSD] if self._limited else self.chains.chunks(session)

    def stored_of(self, key: SessionKey) -> int:
        """The same by name; nothing of a session that is not known."""
        session = self.known.get(key)
        return 0 if session is None else self.stored(session)

    def leave(self, session: Session, now: float) -> None:
        """Its user has left, and says nothing: it is forgotten later."""
        chunks = self._open.pop(session.key, 0)
        self._tally.live.set(self._tally.live.value - chunks * self._tokens, now)
        turns = session.turns

        def forget(now: float) -> None:
            if session.turns == turns:
                self._forget(session, now)

        self._schedule(now + self._linger_s, forget)

    def _forget(self, session: Session, now: float) -> None:
        self._meet(session, 0, now)
        for tier in self.tiers:
            tier.claim(session, 0, now)
            tier.policy.forget(session.key)
        if self._policies.returns is not None:
            self._policies.returns.forget(session.key, now)
        self.chains.remove(session)
        del self.known[session.key]

    def _meet(self, session: Session, own: int, now: float) -> None:
        """A request comes upon what was prefetched for it; ``own`` chunks of it are of use."""
        late = self.loads.fetching(session)
        self.loads.drop(session, now)
        self.copies.drop(session, now)
        start = session.fetched_from
        if start is not None:
            present = session.present[DRAM]
            used = max(0, min(present, own) - start)
            wasted = max(0, present - start) - used
            self._tally.returned(used * self._tokens, wasted * self._tokens, late)
            session.fetched_from = None

    def _cut(self, level: int, session: Session, before: int, now: float) -> None:
        """A tier has cut a session of which ``before`` chunks had been present."""
        if level == DEVICE:
            self.copies.shortened(session, now)
        elif level == DRAM:
            self.loads.shortened(session, now)
            start, present = session.fetched_from, session.present[DRAM]
            if start is not None:
                self._tally.lost(max(0, before - max(start, present)) * self._tokens)
                if present <= start:
                    session.fetched_from = None

    def _opened(self, session: Session, now: float) -> None:
        """Its user has it open; its chain may have changed."""
        chunks = self.chains.chunks(session)
        grown = chunks - self._open.get(session.key, 0)
        self._open[session.key] = chunks
        self._tally.live.set(self._tally.live.value + grown * self._tokens, now)
