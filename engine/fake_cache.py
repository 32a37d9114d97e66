"""The fake engine's KV: which chunks lie where, and which session holds them. Nothing is stored.

Like the real engine's: chunks are named by a chain over the salt and all tokens before, a prompt
reuses its longest unbroken chain of whole chunks but always computes its last token, everything
computed is kept on the device and copied to the disk, and a chunk leaves a tier only when no other
session needs it there.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cache_tiers.hints import BrokenPin, Dropped, KvReport, Miss, SessionKv, TenantBytes
from cache_tiers.lineage import Lineage
from cache_tiers.manifest import Manifests
from cache_tiers.pins import PinBook
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Standing, Tier, tenant_of

CHUNK_BYTES = 4096
PIN_BUDGETS = dict.fromkeys(Tier, 512)
"""In chunks."""


@dataclass(slots=True)
class FakeDisk:
    """What outlives an engine: a second engine on the same disk is the first one, restarted."""

    chunks: set[ChunkKey] = field(default_factory=set)
    corrupt: set[ChunkKey] = field(default_factory=set)
    lineage: Lineage = field(default_factory=lambda: Lineage(Manifests.in_memory()))
    writers: set[SessionKey] = field(default_factory=set)
    """Sessions that wrote a chunk, and so have an encryption key."""

    @property
    def manifests(self) -> dict[SessionKey, tuple[ChunkKey, ...]]:
        """Every session's chunks, in order."""
        lineage = self.lineage
        return {session: lineage.chain(session) or () for session in lineage.sessions()}

    def put(self, session: SessionKey, keys: Sequence[ChunkKey]) -> None:
        """As if the session had written chunks of these names."""
        self.chunks.update(keys)
        self.writers.add(session)
        self.lineage.remember(session, self.lineage.chain(session), keys, alone=True)

    def damage(self, session: SessionKey, index: int) -> None:
        """Corrupt the session's chunk number ``index`` (from 0)."""
        self.corrupt.add(self.manifests[session][index])

    def wipe(self) -> None:
        """Forget everything."""
        self.chunks.clear()
        self.corrupt.clear()
        self.writers.clear()
        self.lineage = Lineage(Manifests.in_memory())


@dataclass(slots=True)
class FakeCache:
    """Chunks by tier. ``tokens_per_chunk`` tokens make one."""

    disk: FakeDisk
    tokens_per_chunk: int
    device: set[ChunkKey] = field(default_factory=set)
    dram: set[ChunkKey] = field(default_factory=set)
    prefetched: set[ChunkKey] = field(default_factory=set)
    """Of ``dram``, what a prefetch brought and nobody has asked for."""
    fetched: int = 0
    """Chunks that prefetches brought, ever."""
    used: int = 0
    """Of these, those that a request then found."""
    wasted: int = 0
    """Of these, those that left again before."""
    parked: set[SessionKey] = field(default_factory=set)
    running: Counter[SessionKey] = field(default_factory=Counter)
    pins: PinBook = field(default_factory=lambda: PinBook(PIN_BUDGETS))

    def keys(self, salt: str, tokens: Sequence[int]) -> tuple[ChunkKey, ...]:
        """Names of the whole chunks of ``tokens``."""
        size, chain, keys = self.tokens_per_chunk, salt.encode(), []
        for start in range(0, len(tokens) - size + 1, size):
            piece = b"".join(token.to_bytes(4) for token in tokens[start : start + size])
            chain = hashlib.sha256(chain + piece).digest()
            keys.append(ChunkKey(chain))
        return tuple(keys)

    def read(self, session: SessionKey, salt: str, prompt: Sequence[int]) -> KvReport:
        """Look a prompt up, load what is below the device, and say what had to be computed."""
        size = self.tokens_per_chunk
        usable = self.keys(salt, prompt)[: (len(prompt) - 1) // size]
        count = dict.fromkeys(Tier, 0)
        prefetched = hits = 0
        reason: MissReason | None = None
        for key in usable:
            if key in self.device:
                tier = Tier.DEVICE
            elif key in self.prefetched:
                tier = Tier.SSD
                prefetched += size
            elif key in self.dram:
                tier = Tier.DRAM
            elif key in self.disk.corrupt:
                self._forget({key})
                reason = MissReason.CORRUPT_CHUNK
                break
            elif key in self.disk.chunks:
                tier = Tier.SSD
            else:
                break
            count[tier] += size
            hits += 1
        if reason is None:
            reason = self._why(session, usable, hits)
        self.used += prefetched // size
        self._raise(usable[:hits], self.device)
        self.parked.discard(session)
        loaded = count[Tier.DRAM] + count[Tier.SSD]
        reused = hits * size
        return KvReport(
            prompt=len(prompt),
            computed=len(prompt) - reused,
            device=count[Tier.DEVICE],
            dram=count[Tier.DRAM],
            ssd=count[Tier.SSD],
            prefetched=prefetched,
            bytes_loaded=loaded // size * CHUNK_BYTES,
            load_ms=float(loaded),
            misses=(Miss(reason, at_token=reused, tokens=len(prompt) - reused),),
        )

    def begin(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """A request of the session runs from now until ``end``; returns the session's chain."""
        self.running[session] += 1
        return self.disk.lineage.chain(session)

    def end(self, session: SessionKey) -> None:
        """One of the session's requests is over."""
        self.running[session] -= 1
        if not self.running[session]:
            del self.running[session]

    def write(
        self,
        session: SessionKey,
        salt: str,
        tokens: Sequence[int],
        came_with: tuple[ChunkKey, ...] | None,
    ) -> int:
        """Keep a conversation: on the device, with its copy on disk. Returns how many tokens of
        the session's history it supersedes; ``came_with`` is what ``begin`` said."""
        keys = self.keys(salt, tokens)
        if not self.disk.chunks.issuperset(keys):
            self.disk.writers.add(session)
        self.device.update(keys)
        self.disk.chunks.update(keys)
        alone = self.running[session] == 1
        change = self.disk.lineage.remember(session, came_with, keys, alone=alone)
        self.pins.follow(session, self.disk.lineage.chain(session) or ())
        return change.left * self.tokens_per_chunk

    def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> None:
        """Let ``child`` hold what ``parent`` does."""
        chunks = None if tokens is None else max(0, tokens) // self.tokens_per_chunk
        if self.disk.lineage.fork(parent, child, chunks) is None:
            return
        self.pins.follow(child, self.disk.lineage.chain(child) or ())
        if parent in self.parked:
            self.parked.add(child)

    def truncate(self, session: SessionKey, tokens: int) -> None:
        """Cut a session's chain."""
        self.disk.lineage.truncate(session, max(0, tokens) // self.tokens_per_chunk)
        self.pins.follow(session, self.disk.lineage.chain(session) or ())

    def broken(self) -> list[BrokenPin]:
        """Pins that were broken since the last call."""
        return [
            BrokenPin(pin.session, pin.tier, pin.chunks * CHUNK_BYTES, pin.reason)
            for pin in self.pins.take_broken()
        ]

    def make_room(self, tier: Tier, chunks: int) -> None:
        """Evict so many chunks of a tier, as the real one would under pressure."""
        held = self.tiers()[tier]
        lineage = self.disk.lineage
        chains = [lineage.chain(session) or () for session in reversed(lineage.sessions())]
        kept = dict.fromkeys(key for chain in chains for key in chain)
        order = [*held.difference(kept), *reversed(kept)]
        for _ in range(chunks):
            left = [key for key in order if key in held]
            victim = min(left, key=lambda key: self.standing(key, tier), default=None)
            if victim is None:
                return
            while self.standing(victim, tier) is Standing.PINNED:
                self.pins.break_oldest(tier, "others needed the room")
            held.discard(victim)
            self._waste()

    def standing(self, key: ChunkKey, tier: Tier) -> Standing:
        """What decides when ``key`` is evicted."""
        if self.pins.is_pinned(key, tier):
            return Standing.PINNED
        superseded = self.disk.lineage.is_superseded(key)
        return Standing.SUPERSEDED if superseded else Standing.ORDINARY

    def tiers(self) -> dict[Tier, set[ChunkKey]]:
        """What is where."""
        return {Tier.DEVICE: self.device, Tier.DRAM: self.dram, Tier.SSD: self.disk.chunks}

    def usage(self) -> list[TenantBytes]:
        """What each tenant's sessions hold."""
        held: dict[str, set[ChunkKey]] = {}
        for session, keys in self.disk.manifests.items():
            own = held.setdefault(tenant_of(session), set())
            own.update(keys, self.disk.lineage.beside(session))
        found = []
        for tenant, own in held.items():
            here = {tier: own & there for tier, there in self.tiers().items()}
            pinned = {
                tier: sum(self.pins.is_pinned(key, tier) for key in found_there) * CHUNK_BYTES
                for tier, found_there in here.items()
            }
            by_tier = {tier: len(there) * CHUNK_BYTES for tier, there in here.items()}
            found.append(TenantBytes(tenant, by_tier, pinned))
        return found

    def park(self, session: SessionKey) -> None:
        """Free the upper copies of what no session that is not parked holds."""
        self.parked.add(session)
        held = self._held(key for key in self.disk.manifests if key not in self.parked)
        for key in set(self.disk.lineage.chain(session) or ()) - held:
            for tier in (Tier.DEVICE, Tier.DRAM):
                if not self.pins.is_pinned(key, tier):
                    self.tiers()[tier].discard(key)
        self._waste()

    def below_dram(self, session: SessionKey) -> bool:
        """Whether a prefetch of the session would bring something."""
        chain = self.disk.lineage.chain(session) or ()
        return any(key not in self.device and key not in self.dram for key in chain)

    def prefetch(self, session: SessionKey) -> int:
        """Bring the session's chunks to DRAM up to the first that it cannot; returns how many."""
        ready = []
        for key in self.disk.lineage.chain(session) or ():
            above = key in self.device or key in self.dram
            if not above and (key not in self.disk.chunks or key in self.disk.corrupt):
                break
            ready.append(key)
            if not above:
                self.fetched += 1
                self.prefetched.add(key)
                self.dram.add(key)
        self.parked.discard(session)
        return len(ready)

    def drop(self, session: SessionKey) -> Dropped:
        """Forget a session, and in every tier the chunks that no other session holds. One that
        wrote a chunk had an encryption key."""
        known = self.disk.lineage.chain(session) is not None
        self.parked.discard(session)
        self.pins.unpin(session)
        freed = set(self.disk.lineage.forget(session).orphans)
        self._forget(freed)
        had_key = session in self.disk.writers
        self.disk.writers.discard(session)
        return Dropped(session, known, len(freed), len(freed) * CHUNK_BYTES, key_destroyed=had_key)

    def status(self, session: SessionKey) -> SessionKv:
        """Where the session's chunks are."""
        keys = self.disk.lineage.chain(session)
        if keys is None:
            return SessionKv(session, known=False)
        counts = {
            Tier.DEVICE: len(self.device.intersection(keys)),
            Tier.DRAM: len(self.dram.intersection(keys)),
            Tier.SSD: len(self.disk.chunks.intersection(keys)),
        }
        return SessionKv(
            session,
            known=True,
            tokens=len(keys) * self.tokens_per_chunk,
            tokens_by_tier={t: n * self.tokens_per_chunk for t, n in counts.items()},
            bytes_by_tier={t: n * CHUNK_BYTES for t, n in counts.items()},
            ssd_complete=counts[Tier.SSD] == len(set(keys)),
        )

    def _why(self, session: SessionKey, usable: tuple[ChunkKey, ...], hits: int) -> MissReason:
        known = self.disk.lineage.chain(session)
        if known is None:
            return MissReason.NEW_SESSION
        if hits >= min(len(known), len(usable)):
            return MissReason.APPENDED
        same = usable[hits] == known[hits]
        return MissReason.EVICTED if same else MissReason.PREFIX_CHANGED

    def _held(self, sessions: Iterable[SessionKey]) -> set[ChunkKey]:
        return {key for session in sessions for key in self.disk.manifests[session]}

    def _raise(self, keys: Iterable[ChunkKey], tier: set[ChunkKey]) -> None:
        tier.update(keys)
        self.prefetched.difference_update(keys)

    def _waste(self) -> None:
        gone = self.prefetched - self.dram
        self.wasted += len(gone)
        self.prefetched -= gone

    def _forget(self, keys: set[ChunkKey]) -> None:
        for tier in (self.device, self.dram, self.disk.chunks, self.disk.corrupt):
            tier -= keys
        self._waste()
