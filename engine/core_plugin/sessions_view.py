"""Sessions as the engine knows them: chains of chunks, and where those chunks are.

Scheduler thread only. The chains survive a restart (``cache_tiers.lineage``); device blocks and
leases do not.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from cache_tiers.hints import Pinned, SessionKv
from cache_tiers.lineage import Change, Lineage
from cache_tiers.manifest import Manifests
from cache_tiers.types import ChunkKey, SessionKey, Tier
from engine.core_plugin.device_blocks import DeviceBlocks
from engine.core_plugin.manager import TierManager
from engine.core_plugin.standings import Standings

MOST_IN_USE = 10_000
"""Sessions counted as in use; beyond it the longest unused is no longer."""


class SessionChunks:
    """Which chunks each session holds, in which tiers they are, and what that is worth to them."""

    def __init__(self, manager: TierManager, blocks_per_chunk: int, tokens_per_chunk: int) -> None:
        self._manager = manager
        self._blocks_per_chunk = blocks_per_chunk
        self._tokens_per_chunk = tokens_per_chunk
        self.lineage = Lineage(manager.ssd.manifests if manager.ssd else Manifests.in_memory())
        self.standings = Standings(manager, self.lineage)
        self._block_hashes: dict[SessionKey, tuple[bytes, ...]] = {}
        self._in_use: dict[SessionKey, tuple[ChunkKey, ...]] = {}
        self._users: Counter[ChunkKey] = Counter()
        self.device: DeviceBlocks | None = None

    def bind(self, device: DeviceBlocks) -> None:
        """The engine has handed over its device blocks."""
        self.device = device
        self.standings.bind(device, self._blocks_per_chunk)

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """The session's chunks in prefix order; None when it is not known."""
        return self.lineage.chain(session)

    # --- histories grow, fork, change and end ----------------------------------------------------

    def begin_use(self, session: SessionKey) -> None:
        """A request of the session has come: from now until it parks, its upper copies stay."""
        self._use(session, self.chain(session) or ())

    def remember(
        self,
        session: SessionKey,
        came_with: Sequence[ChunkKey] | None,
        keys: Sequence[ChunkKey],
        block_hashes: Sequence[bytes],
        *,
        alone: bool,
    ) -> int:
        """A turn of the session has computed ``keys``; ``block_hashes`` are its device blocks'. The
        rest as ``Lineage.remember``. Returns how many tokens it left behind."""
        change = self.lineage.remember(session, came_with, keys, alone=alone)
        chain = self.chain(session) or ()
        self._use(session, chain)
        if self._blocks_per_chunk > 1 and chain == tuple(keys):
            count = len(keys) * self._blocks_per_chunk
            self._block_hashes[session] = tuple(block_hashes[:count])
        self._changed(session, change)
        return change.left * self._tokens_per_chunk

    def left_by(
        self,
        session: SessionKey,
        came_with: Sequence[ChunkKey] | None,
        keys: Sequence[ChunkKey],
        *,
        alone: bool,
    ) -> int:
        """How many tokens ``remember`` would leave behind."""
        left = self.lineage.left_by(session, came_with, keys, alone=alone)
        return left * self._tokens_per_chunk

    def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> SessionKv:
        """Let ``child`` hold the chunks of ``parent`` within its first ``tokens``: only names are
        copied."""
        chunks = None if tokens is None else max(0, tokens) // self._tokens_per_chunk
        change = self.lineage.fork(parent, child, chunks)
        if change is not None:
            if parent in self._in_use:
                self._use(child, self.chain(child) or ())
            if parent in self._block_hashes:
                self._block_hashes[child] = self._block_hashes[parent]
            self._changed(child, change)
        return self.describe(child)

    def truncate(self, session: SessionKey, tokens: int) -> SessionKv:
        """Cut the session to its first ``tokens``."""
        change = self.lineage.truncate(session, max(0, tokens) // self._tokens_per_chunk)
        if change is not None:
            if session in self._in_use:
                self._use(session, self.chain(session) or ())
            self._changed(session, change)
        return self.describe(session)

    def park(self, session: SessionKey) -> None:
        """Free device blocks and DRAM chunks that SSD has and that no session in use holds."""
        ssd, chain = self._manager.ssd, self.chain(session)
        if ssd is None or chain is None:
            return
        self._end_use(session)
        gone = {k for k in chain if k not in self._users and ssd.contains(k)}
        self._free(list(self._device_names(session)), gone)

    def forget(self, session: SessionKey) -> tuple[list[ChunkKey], list[ChunkKey]]:
        """Drop the session and free its upper copies; returns all chunks that it held, and those
        that nobody holds now."""
        self._end_use(session)
        self.standings.pins.unpin(session)
        beside = [
            (key, self._blocks_of(session, None, key)) for key in self.lineage.beside(session)
        ]
        names = [*self._device_names(session), *beside]
        gone = self.lineage.forget(session)
        self._block_hashes.pop(session, None)
        orphans = [key for key in gone.orphans if key not in self._manager.public]
        self._free(names, set(orphans))
        self.standings.update(gone.superseded)
        return [*gone.orphans, *gone.shared], orphans

    # --- leases ----------------------------------------------------------------------------------

    def pin(self, session: SessionKey, tier: Tier, until: float) -> Pinned:
        """Claim what the session has in a tier, and will have; ``until`` is a time as ``poll``
        gets it."""
        chain = self.chain(session) or ()
        if not self.standings.pins.pin(session, tier, chain, until):
            return Pinned(session, tier, granted=False)
        self.hold(session)
        kv = self.describe(session)
        tokens, size = kv.tokens_by_tier.get(tier, 0), kv.bytes_by_tier.get(tier, 0)
        return Pinned(session, tier, True, tokens, size)

    def hold(self, session: SessionKey) -> None:
        """Chunks of the session may have come to the device: where they are pinned, they stay."""
        if Tier.DEVICE in self.standings.pins.tiers(session):
            self.standings.hold(
                (key, [block for block, _ in blocks])
                for key, names in self._device_names(session)
                if (blocks := self._cached(names))
            )

    # --- what is where ---------------------------------------------------------------------------

    def describe(self, session: SessionKey) -> SessionKv:
        """Tokens and bytes by tier."""
        chain = self.chain(session)
        if chain is None:
            return SessionKv(session, known=False)
        manager = self._manager
        device = sum(bool(self._cached(names)) for _, names in self._device_names(session))
        dram = sum(manager.dram.has(key) for key in chain)
        ssd = sum(map(manager.is_on_ssd, chain))
        counts = {Tier.DEVICE: device, Tier.DRAM: dram, Tier.SSD: ssd}
        return SessionKv(
            session,
            known=True,
            tokens=len(chain) * self._tokens_per_chunk,
            tokens_by_tier={tier: n * self._tokens_per_chunk for tier, n in counts.items()},
            bytes_by_tier={tier: n * manager.chunk_bytes for tier, n in counts.items()},
            ssd_complete=ssd == len(chain),
        )

    def held(self) -> list[SessionKv]:
        """Every session of which some tier holds a chunk."""
        described = (self.describe(session) for session in self.lineage.sessions())
        return [kv for kv in described if any(kv.tokens_by_tier.values())]

    def leading_on_device(self, session: SessionKey) -> int:
        """Chunks of the session that are on the device, counted from its beginning."""
        return leading(bool(self._cached(names)) for _, names in self._device_names(session))

    def on_device(self, session: SessionKey) -> int:
        """As ``leading_on_device``, quickly: by bisection, so taking it that what is there is a
        beginning. Off where blocks in the middle went first; for decisions that may be off."""
        return self.leading_there(session, self.chain(session) or ())

    def leading_there(self, session: SessionKey, keys: Sequence[ChunkKey]) -> int:
        """As ``on_device``, of ``keys``, which begin as the session's chain does."""

        def is_away(i: int) -> bool:
            return not self._cached(self._blocks_of(session, i, keys[i]))

        return bisect_left(range(len(keys)), True, key=is_away)

    def on_ssd(self, session: SessionKey) -> int:
        """Leading chunks of the session that are on SSD, as quickly and as roughly as
        ``on_device``."""
        chain, is_on_ssd = self.chain(session) or (), self._manager.is_on_ssd
        return bisect_left(range(len(chain)), True, key=lambda i: not is_on_ssd(chain[i]))

    def at_hand(self, session: SessionKey, on_device: int | None = None) -> int:
        """Leading chunks that are on the device, and those behind them that are in DRAM: as quickly
        and as roughly as ``on_device``, which need not be asked again where it was."""
        has, chain = self._manager.dram.has, self.chain(session) or ()
        here = self.leading_there(session, chain) if on_device is None else on_device
        return bisect_left(chain, True, lo=here, key=lambda key: not has(key))

    def idle_blocks(self, session: SessionKey, keep: int) -> Iterator[int]:
        """Idle device blocks of the session's chunks behind the first ``keep``, the last first;
        none of chunks that other sessions hold too."""
        chain = self.chain(session) or ()
        for i in reversed(range(keep, self.on_device(session))):
            if not self.is_shared(chain[i]):
                blocks = self._cached(self._blocks_of(session, i, chain[i]))
                yield from (block for block, idle in reversed(blocks) if idle)

    def is_needed(self, name: bytes) -> bool:
        """Whether somebody may ask for a device block of that name: a session that holds its chunk
        and has not left it behind, or everybody. All are taken to be where a chunk is more than a
        block of the first group."""
        if self._blocks_per_chunk > 1 or any(name[-4:]):
            return True
        key = ChunkKey(name)
        return self.lineage.keepers(key) > 0 or key in self._manager.public

    def is_shared(self, key: ChunkKey) -> bool:
        """Whether more than one session holds the chunk and has not left it behind."""
        return self.lineage.keepers(key) > 1

    def holders(self, keys: Sequence[ChunkKey]) -> dict[ChunkKey, SessionKey]:
        """For each of ``keys`` that sessions in use hold, the one that was used last."""
        wanted = {key for key in keys if self.lineage.keepers(key)}
        found: dict[ChunkKey, SessionKey] = {}
        for session, chain in reversed(self._in_use.items()):
            if not wanted:
                break
            if not wanted.isdisjoint(chain):
                found.update(dict.fromkeys(wanted.intersection(chain), session))
                wanted -= found.keys()
        return found

    def leading_shared(self, session: SessionKey, keys: Iterable[ChunkKey]) -> int:
        """How many of ``keys``, from the first on, a session other than this one holds too."""
        own = set(self._in_use.get(session, ()))
        return leading(
            self.lineage.has_other_holders(session, key, in_chain=key in own) for key in keys
        )

    def everything(self, session: SessionKey) -> Iterator[tuple[ChunkKey, bool]]:
        """Every chunk that the session holds, and whether it is on the device."""
        for key, names in self._device_names(session):
            yield key, bool(self._cached(names))
        for key in self.lineage.beside(session):
            yield key, bool(self._cached(self._blocks_of(session, None, key)))

    # --- inside ----------------------------------------------------------------------------------

    def _changed(self, session: SessionKey, change: Change) -> None:
        self.standings.pins.follow(session, self.chain(session) or ())
        self.hold(session)
        left = [key for key in change.superseded if key not in self._manager.public]
        self.standings.update([*left, *change.wanted])
        if self.device is not None:
            # The end of the prefix first: without its beginning it would be useless.
            names = (self._blocks_of(session, None, key) for key in reversed(left))
            self.device.put_first(block for each in names for block, _ in self._cached(each))
        if self._manager.ssd is not None:
            self._manager.ssd.persist_manifests()

    def _use(self, session: SessionKey, chain: tuple[ChunkKey, ...]) -> None:
        self._end_use(session)
        self._in_use[session] = chain
        self._users.update(chain)
        if len(self._in_use) > MOST_IN_USE:
            oldest = next(iter(self._in_use))
            self._end_use(oldest)
            self._block_hashes.pop(oldest, None)

    def _end_use(self, session: SessionKey) -> None:
        self._users.subtract(chain := self._in_use.pop(session, ()))
        for key in chain:
            if not self._users[key]:
                del self._users[key]

    def _free(
        self, names: Iterable[tuple[ChunkKey, list[tuple[bytes, int]]]], keys: set[ChunkKey]
    ) -> None:
        """Free upper copies of ``keys`` that nobody has a lease on."""
        keys = keys - self._manager.public
        if self.device is not None:
            blocks = [block for key, each in names if key in keys for block in self._cached(each)]
            self.device.evict({block for block, idle in blocks if idle})
        pins = self.standings.pins
        self._manager.dram.drop(key for key in keys if not pins.is_pinned(key, Tier.DRAM))

    def _cached(self, names: Sequence[tuple[bytes, int]]) -> list[tuple[int, bool]]:
        """The blocks of a chunk that is on the device whole, and whether each is idle."""
        if self.device is None:
            return []
        blocks = [self.device.cached(*name) for name in names]
        there = [block for block in blocks if block is not None]
        return there if len(there) == len(blocks) else []

    def _device_names(
        self, session: SessionKey
    ) -> Iterator[tuple[ChunkKey, list[tuple[bytes, int]]]]:
        for i, key in enumerate(self.chain(session) or ()):
            yield key, self._blocks_of(session, i, key)

    def _blocks_of(
        self, session: SessionKey, index: int | None, key: ChunkKey
    ) -> list[tuple[bytes, int]]:
        """Hash and group of the device blocks of ``key``, the session's ``index``-th chunk; those
        of a chunk beside its chain are known only where a chunk is one block."""
        group = int.from_bytes(key[-4:], "big")
        if self._blocks_per_chunk == 1:
            return [(bytes(key[:-4]), group)]
        if index is None:
            return []
        hashes = self._block_hashes.get(session, ())
        start = index * self._blocks_per_chunk
        return [(block, group) for block in hashes[start : start + self._blocks_per_chunk]]


def leading(flags: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, flags))
