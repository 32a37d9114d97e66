"""Sessions as the engine knows them: chains of chunks, and where those chunks are.

Scheduler thread only. The chains survive a restart (``cache_tiers.manifest``); device blocks do
not.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from cache_tiers.hints import SessionKv
from cache_tiers.manifest import Manifests
from cache_tiers.types import ChunkKey, SessionKey, Tier
from engine.core_plugin.manager import TierManager

MOST_IN_USE = 10_000
"""Sessions counted as in use; beyond it the longest unused is no longer."""
MOST_BRANCH_CHUNKS = 4_096
BRANCHES = "\0branches"
"""Ends the name under which a session's former chunks are kept in the manifests."""


class DeviceBlocks(Protocol):
    """The engine's prefix cache on the device, block by block."""

    def cached(self, block_hash: bytes, group: int) -> tuple[int, bool] | None:
        """The block that holds ``block_hash``: its number and whether it is idle; or None."""
        ...

    def evict(self, blocks: set[int]) -> None:
        """Take idle blocks out of the prefix cache."""
        ...

    def take(self, most: int, keep_share: float) -> list[int]:
        """Allocate up to ``most`` idle blocks, leaving ``keep_share`` of the idle ones."""
        ...

    def give(self, filled: Sequence[tuple[bytes, int]], empty: Sequence[int]) -> None:
        """Give taken blocks back; ``filled`` are (name in the prefix cache, block) in prefix
        order."""
        ...


class VllmDeviceBlocks:
    """DeviceBlocks on vLLM's KV cache manager."""

    def __init__(self, kv_cache_manager: Any) -> None:
        self._manager = kv_cache_manager

    def cached(self, block_hash: bytes, group: int) -> tuple[int, bool] | None:
        """See DeviceBlocks."""
        blocks = self._manager.block_pool.get_cached_block(block_hash, [group])
        return None if not blocks else (blocks[0].block_id, blocks[0].ref_cnt == 0)

    def evict(self, blocks: set[int]) -> None:
        """See DeviceBlocks."""
        self._manager.evict_blocks(blocks)

    def take(self, most: int, keep_share: float) -> list[int]:
        """See DeviceBlocks."""
        pool = self._manager.block_pool
        count = min(most, int(pool.get_num_free_blocks() * (1 - keep_share)))
        return [block.block_id for block in pool.get_new_blocks(count)] if count > 0 else []

    def give(self, filled: Sequence[tuple[bytes, int]], empty: Sequence[int]) -> None:
        """See DeviceBlocks."""
        pool = self._manager.block_pool
        for name, block in filled:
            pool._insert_block_hash(name, pool.blocks[block], num_tokens=None)
        # The prefix's end is evicted first: without its beginning it would be useless.
        ordered = [block for _, block in filled] + list(empty)
        pool.free_blocks([pool.blocks[block] for block in reversed(ordered)])


class SessionChunks:
    """Which chunks each session holds, and in which tiers they are."""

    def __init__(self, manager: TierManager, blocks_per_chunk: int, tokens_per_chunk: int) -> None:
        self._manager = manager
        self._blocks_per_chunk = blocks_per_chunk
        self._tokens_per_chunk = tokens_per_chunk
        self._manifests = manager.ssd.manifests if manager.ssd else Manifests.in_memory()
        self._block_hashes: dict[SessionKey, tuple[bytes, ...]] = {}
        self._in_use: dict[SessionKey, tuple[ChunkKey, ...]] = {}
        self._users: Counter[ChunkKey] = Counter()
        self.device: DeviceBlocks | None = None

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """The session's chunks in prefix order; None when it is not known."""
        return self._manifests.get(session)

    def remember(
        self, session: SessionKey, keys: Sequence[ChunkKey], block_hashes: Sequence[bytes]
    ) -> None:
        """The session's latest turn holds ``keys``; ``block_hashes`` are its device blocks'."""
        self._keep_branches(session, keys)
        self._manifests.replace(session, keys)
        self._use(session, tuple(keys))
        if self._blocks_per_chunk > 1:
            count = len(keys) * self._blocks_per_chunk
            self._block_hashes[session] = tuple(block_hashes[:count])
        if self._manager.ssd is not None:
            self._manager.ssd.persist_manifests()

    def describe(self, session: SessionKey) -> SessionKv:
        """Tokens and bytes by tier."""
        chain = self.chain(session)
        if chain is None:
            return SessionKv(session, known=False)
        manager = self._manager
        device = sum(self._on_device(session, i, key) for i, key in enumerate(chain))
        dram = sum(manager.dram.has(key) for key in chain)
        ssd = sum(manager.ssd.contains(key) for key in chain) if manager.ssd else 0
        counts = {Tier.DEVICE: device, Tier.DRAM: dram, Tier.SSD: ssd}
        return SessionKv(
            session,
            known=True,
            tokens=len(chain) * self._tokens_per_chunk,
            tokens_by_tier={tier: n * self._tokens_per_chunk for tier, n in counts.items()},
            bytes_by_tier={tier: n * manager.chunk_bytes for tier, n in counts.items()},
            ssd_complete=ssd == len(chain),
        )

    def leading_on_device(self, session: SessionKey) -> int:
        """Chunks of the session that are on the device, counted from its beginning."""
        chain = self.chain(session) or ()
        missing = (i for i, key in enumerate(chain) if not self._on_device(session, i, key))
        return next(missing, len(chain))

    def held(self) -> list[SessionKv]:
        """Every session of which some tier holds a chunk."""
        names = (name for name in self._manifests.sessions() if not name.endswith(BRANCHES))
        described = (self.describe(session) for session in names)
        return [kv for kv in described if any(kv.tokens_by_tier.values())]

    def begin_use(self, session: SessionKey) -> None:
        """A request of the session has come: from now until it parks, its upper copies stay."""
        self._use(session, self.chain(session) or ())

    def park(self, session: SessionKey) -> None:
        """Free device blocks and DRAM chunks that SSD has and that no session in use holds."""
        ssd, chain = self._manager.ssd, self.chain(session)
        if ssd is None or chain is None:
            return
        self._end_use(session)
        self._free(session, {k for k in chain if k not in self._users and ssd.contains(k)})

    def forget(self, session: SessionKey) -> list[ChunkKey]:
        """Drop the session and free its upper copies; returns chunks that nobody holds now."""
        self._end_use(session)
        self._free(session, set(self._manifests.exclusive(session)))
        self._block_hashes.pop(session, None)
        orphans = [*self._manifests.drop(session), *self._manifests.drop(_branches(session))]
        self._manager.dram.drop(orphans)
        return orphans

    def _use(self, session: SessionKey, chain: tuple[ChunkKey, ...]) -> None:
        self._end_use(session)
        self._in_use[session] = chain
        self._users.update(chain)
        if len(self._in_use) > MOST_IN_USE:
            oldest = next(iter(self._in_use))
            self._end_use(oldest)
            self._block_hashes.pop(oldest, None)

    def _keep_branches(self, session: SessionKey, keys: Sequence[ChunkKey]) -> None:
        """Remember what the session wrote and its chain no longer has (an edited history, a side
        question), so that dropping the session reaches it."""
        name = _branches(session)
        before = self._manifests.get(name) or ()
        now_held = set(keys)
        former = (*before, *(self.chain(session) or ()))
        left = dict.fromkeys(key for key in former if key not in now_held)
        branches = tuple(left)[-MOST_BRANCH_CHUNKS:]
        if branches:
            self._manifests.replace(name, branches)
        elif before:
            self._manifests.drop(name)

    def _end_use(self, session: SessionKey) -> None:
        self._users.subtract(chain := self._in_use.pop(session, ()))
        for key in chain:
            if not self._users[key]:
                del self._users[key]

    def _free(self, session: SessionKey, keys: set[ChunkKey]) -> None:
        chain = self.chain(session) or ()
        if self.device is not None:
            blocks = [
                self.device.cached(block_hash, group)
                for i, key in enumerate(chain)
                if key in keys
                for block_hash, group in self._blocks_of(session, i, key)
            ]
            self.device.evict({block[0] for block in blocks if block is not None and block[1]})
        self._manager.dram.drop(keys)

    def _on_device(self, session: SessionKey, index: int, key: ChunkKey) -> bool:
        blocks = self._blocks_of(session, index, key)
        return (
            self.device is not None
            and bool(blocks)
            and all(self.device.cached(*block) is not None for block in blocks)
        )

    def _blocks_of(self, session: SessionKey, index: int, key: ChunkKey) -> list[tuple[bytes, int]]:
        """Hash and group of the device blocks of the session's ``index``-th chunk, ``key``."""
        group = int.from_bytes(key[-4:], "big")
        if self._blocks_per_chunk == 1:
            return [(bytes(key[:-4]), group)]
        hashes = self._block_hashes.get(session, ())
        start = index * self._blocks_per_chunk
        return [(block, group) for block in hashes[start : start + self._blocks_per_chunk]]


def _branches(session: SessionKey) -> SessionKey:
    return SessionKey(session + BRANCHES)
