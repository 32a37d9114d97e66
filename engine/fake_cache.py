"""The fake engine's KV: which chunks lie where, and which session holds them. Nothing is stored.

Like the real engine's: chunks are named by a chain over the salt and all tokens before, a prompt
reuses its longest unbroken chain of whole chunks but always computes its last token, everything
computed is kept on the device and copied to the disk, and a chunk leaves a tier only when no other
session needs it there.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cache_tiers.hints import Dropped, KvReport, Miss, SessionKv
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier

CHUNK_BYTES = 4096


@dataclass(slots=True)
class FakeDisk:
    """What outlives an engine: a second engine on the same disk is the first one, restarted."""

    chunks: set[ChunkKey] = field(default_factory=set)
    corrupt: set[ChunkKey] = field(default_factory=set)
    manifests: dict[SessionKey, tuple[ChunkKey, ...]] = field(default_factory=dict)
    """Every session's chunks, in order."""

    def damage(self, session: SessionKey, index: int) -> None:
        """Corrupt the session's chunk number ``index`` (from 0)."""
        self.corrupt.add(self.manifests[session][index])

    def wipe(self) -> None:
        """Forget everything."""
        self.chunks.clear()
        self.corrupt.clear()
        self.manifests.clear()


@dataclass(slots=True)
class FakeCache:
    """Chunks by tier. ``tokens_per_chunk`` tokens make one."""

    disk: FakeDisk
    tokens_per_chunk: int
    device: set[ChunkKey] = field(default_factory=set)
    dram: set[ChunkKey] = field(default_factory=set)
    prefetched: set[ChunkKey] = field(default_factory=set)
    """Of ``dram``, what a prefetch brought."""
    parked: set[SessionKey] = field(default_factory=set)

    def keys(self, salt: str, tokens: Sequence[str]) -> tuple[ChunkKey, ...]:
        """Names of the whole chunks of ``tokens``."""
        size, chain, keys = self.tokens_per_chunk, salt.encode(), []
        for start in range(0, len(tokens) - size + 1, size):
            piece = "\0".join(tokens[start : start + size])
            chain = hashlib.sha256(chain + piece.encode("utf-8", "replace")).digest()
            keys.append(ChunkKey(chain))
        return tuple(keys)

    def read(self, session: SessionKey, salt: str, prompt: Sequence[str]) -> KvReport:
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

    def write(self, session: SessionKey, salt: str, tokens: Sequence[str]) -> None:
        """Keep a conversation: on the device, with its copy on disk."""
        keys = self.keys(salt, tokens)
        self.device.update(keys)
        self.disk.chunks.update(keys)
        self.disk.manifests[session] = keys

    def park(self, session: SessionKey) -> None:
        """Free the upper copies of what no session that is not parked holds."""
        self.parked.add(session)
        held = self._held(key for key in self.disk.manifests if key not in self.parked)
        for key in set(self.disk.manifests.get(session, ())) - held:
            for tier in (self.device, self.dram, self.prefetched):
                tier.discard(key)

    def prefetch(self, session: SessionKey) -> int:
        """Bring the session's chunks to DRAM up to the first that it cannot; returns how many."""
        ready = []
        for key in self.disk.manifests.get(session, ()):
            above = key in self.device or key in self.dram
            if not above and (key not in self.disk.chunks or key in self.disk.corrupt):
                break
            ready.append(key)
            if not above:
                self.prefetched.add(key)
                self.dram.add(key)
        self.parked.discard(session)
        return len(ready)

    def drop(self, session: SessionKey) -> Dropped:
        """Forget a session, and in every tier the chunks that no other session holds."""
        keys = self.disk.manifests.pop(session, None)
        self.parked.discard(session)
        if keys is None:
            return Dropped(session, known=False)
        freed = set(keys) - self._held(self.disk.manifests)
        self._forget(freed)
        return Dropped(session, known=True, chunks=len(freed), bytes=len(freed) * CHUNK_BYTES)

    def status(self, session: SessionKey) -> SessionKv:
        """Where the session's chunks are."""
        keys = self.disk.manifests.get(session)
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
        known = self.disk.manifests.get(session)
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

    def _forget(self, keys: set[ChunkKey]) -> None:
        for tier in (self.device, self.dram, self.prefetched, self.disk.chunks, self.disk.corrupt):
            tier -= keys
