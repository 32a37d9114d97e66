"""Sessions over three small tiers, without an engine: vLLM's block pool, a real DRAM region, a
store. Nothing leaks, limits hold, and what is pinned stays until nothing else is left, whatever is
expected of sessions."""

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from vllm.v1.core.block_pool import BlockPool

from cache_tiers.hints import TenantBytes, Usage
from cache_tiers.manifest import Manifests
from cache_tiers.memory_store import MemoryStore
from cache_tiers.types import ChunkKey, SessionKey, Tier, tenant_of
from engine.core_plugin.device_blocks import VllmDeviceBlocks
from engine.core_plugin.dram_tier import DramTier
from engine.core_plugin.manager import TierManager
from engine.core_plugin.owner import Owner
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.ssd_outlook import TOLD_EVERY_S, SsdOutlook
from engine.core_plugin.ssd_tier import SsdTier
from engine.core_plugin.usage import UsageOperation
from engine.core_plugin.vllm_compat import OffloadKey, ReqContext, SharedOffloadRegion
from tests.outlooks import FakeCosts, FakeReturns, Steady

CHUNK, TOKENS = 4096, 16
BLOCKS, ROWS, STORED = 17, 8, 12
NAMES = [SessionKey(name) for name in ("t/a", "t/b", "t/c", "u/d")]
SESSIONS = st.sampled_from(NAMES)
TIERS = st.sampled_from(Tier)
TEXTS = st.text("xy", min_size=1, max_size=5)


def chain_of(session: SessionKey, text: str) -> list[ChunkKey]:
    """A chunk a letter, each named by its tenant and all before it."""
    starts = [f"{tenant_of(session)}:{text[: i + 1]}" for i in range(len(text))]
    return [ChunkKey(hashlib.sha256(start.encode()).digest() + bytes(4)) for start in starts]


class TiersMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        region = SharedOffloadRegion(f"prop-{os.getpid()}-{id(self)}", ROWS, None, CHUNK, CHUNK)
        Path(region.mmap_path).unlink()
        region._creator = False
        self.dram = DramTier(num_chunks=ROWS, mmap_region=region)
        self.store = MemoryStore(CHUNK, STORED * CHUNK)
        self.ssd = SsdTier(
            None,
            self.dram.get_kv_memoryview(),
            "ssd",
            store=self.store,
            manifests=Manifests.in_memory(),
        )
        self.manager = TierManager(self.dram, self.ssd)
        self.pool = BlockPool(BLOCKS, enable_caching=True, hash_block_size=TOKENS)
        kv_cache_manager = SimpleNamespace(
            block_pool=self.pool, evict_blocks=self.pool.evict_blocks
        )
        self.device = VllmDeviceBlocks(kv_cache_manager)
        self.sessions = SessionChunks(self.manager, 1, TOKENS)
        self.sessions.bind(self.device)
        self.returns = FakeReturns()
        self.outlook = SsdOutlook(
            self.manager,
            self.sessions,
            self.returns,
            FakeCosts(),
            (),
            tokens_per_chunk=TOKENS,
            wall_clock=time.time,
        )
        self.told_at = 0.0
        self.now = 0.0

    # --- what happens ----------------------------------------------------------------------------

    @rule(session=SESSIONS, text=TEXTS)
    def turn(self, session: SessionKey, text: str) -> None:
        came_with = self.sessions.chain(session)
        self.sessions.begin_use(session)
        keys = chain_of(session, text)
        used = self.compute(keys)
        self.save(session, keys)
        self.sessions.remember(session, came_with, keys, [], alone=True)
        self.pool.free_blocks([self.pool.blocks[block] for block in reversed(used)])
        self.settle()

    def compute(self, keys: list[ChunkKey]) -> list[int]:
        """As a request does: takes cached blocks, and new ones for the rest; never waits."""
        cached = []
        for key in keys:
            if (block := self.device.cached(key[:-4], 0)) is None:
                break
            cached.append(block)
        idle = sum(idle for _, idle in cached)
        self.sessions.standings.make_room_on_device(len(keys) - len(cached) + idle)
        used = [block for block, _ in cached]
        self.device.hold(used)
        fresh = self.pool.get_new_blocks(len(keys) - len(cached))
        for key, block in zip(keys[len(cached) :], fresh, strict=True):
            self.pool._insert_block_hash(key, block, num_tokens=None)
        return used + [block.block_id for block in fresh]

    def save(self, session: SessionKey, keys: list[ChunkKey]) -> None:
        for key in keys:
            context = ReqContext(req_id=f"{session}-{key.hex()}")
            context.set_state(Owner(session))
            self.manager.on_new_request(context)
            if self.manager.store_room() > 0:
                stored = self.manager.prepare_store([OffloadKey(key)], context)
                assert stored is not None
                if stored.keys_to_store:
                    self.manager.complete_store(stored.keys_to_store, context)
            self.manager.on_request_finished(context)
            self.settle()

    @rule(parent=SESSIONS, child=SESSIONS, tokens=st.none() | st.integers(0, 90))
    def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> None:
        if tenant_of(parent) == tenant_of(child):
            written = self.store.stats().bytes_written
            self.sessions.fork(parent, child, tokens)
            self.settle()
            assert self.store.stats().bytes_written == written

    @rule(session=SESSIONS, tokens=st.integers(0, 90))
    def cut(self, session: SessionKey, tokens: int) -> None:
        self.sessions.truncate(session, tokens)

    @rule(session=SESSIONS)
    def park(self, session: SessionKey) -> None:
        self.sessions.park(session)

    @rule(session=SESSIONS)
    def drop(self, session: SessionKey) -> None:
        held, orphans = self.sessions.forget(session)
        self.ssd.drop(session, orphans, [key for key in held if key not in orphans]).result(10)
        for key in orphans:
            assert self.device.cached(key[:-4], 0) is None
            assert not self.dram.has(key)
            assert not self.store.contains(key)

    @rule(session=SESSIONS, tier=TIERS, ttl=st.integers(1, 4))
    def pin(self, session: SessionKey, tier: Tier, ttl: int) -> None:
        self.sessions.pin(session, tier, self.now + ttl)

    @rule(session=SESSIONS, tier=st.none() | TIERS)
    def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        self.sessions.standings.pins.unpin(session, tier)

    @rule(session=SESSIONS, rate=st.sampled_from([0.001, 0.1, 10.0]), trusted=st.booleans())
    def foresee(self, session: SessionKey, rate: float, trusted: bool) -> None:
        self.told_at += TOLD_EVERY_S
        self.returns.distrusted = set() if trusted else {session}
        self.returns.expect(session, Steady(rate), since=self.told_at)
        self.outlook.poll(self.told_at)

    @rule()
    def wait(self) -> None:
        self.now += 1
        self.sessions.standings.poll(self.now)

    def settle(self) -> None:
        """Until nothing moves and the writer has done what it was asked."""
        give_up_at = time.monotonic() + 20
        while self.manager.is_moving():
            assert time.monotonic() < give_up_at, "nothing happened"
            self.manager._processed_jobs_this_step = False
            self.manager.poll()
        self.ssd.flush().result(20)
        self.sessions.standings.poll(self.now)

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def only_pins_hold_blocks_and_what_they_hold_is_there(self) -> None:
        held = self.sessions.standings._held
        busy = [block for block in self.pool.blocks if block.ref_cnt > 0 and not block.is_null]
        assert sorted(block.block_id for block in busy) == sorted(
            block for blocks in held.values() for block in blocks
        )
        for key in held:
            assert self.sessions.standings.pins.is_pinned(key, Tier.DEVICE)
            assert self.device.cached(key[:-4], 0) is not None

    @invariant()
    def rows_are_counted(self) -> None:
        pins = self.sessions.standings.pins
        pinned = [key for key in self.everything() if pins.is_pinned(key, Tier.DRAM)]
        assert self.dram.room() == ROWS
        assert self.dram.spare() == ROWS - sum(self.dram.has(key) for key in pinned)

    @invariant()
    def limits_hold(self) -> None:
        assert self.store.stats().bytes_used <= STORED * CHUNK
        budgets = {Tier.DEVICE: BLOCKS // 4, Tier.DRAM: ROWS // 2, Tier.SSD: STORED // 2}
        for tier, most in budgets.items():
            assert self.sessions.standings.pins.claimed(tier) <= most
        # Budgets are under what is there, and the rest could always go.
        assert all(broken.tier is Tier.DEVICE for broken in self.sessions.standings.take_broken())

    @invariant()
    def usage_is_what_a_count_says(self) -> None:
        operation = UsageOperation(self.sessions, self.manager)
        reply = operation.poll(0)
        assert isinstance(reply, Usage)
        for each in reply.tenants:
            assert each == self.count(each.tenant)
        assert {each.tenant for each in reply.tenants} == {
            tenant for tenant in ("t", "u") if any(self.count(tenant).by_tier.values())
        }

    def count(self, tenant: str) -> TenantBytes:
        pins = self.sessions.standings.pins
        keys = self.everything(tenant)
        where = {
            Tier.DEVICE: {key for key in keys if self.device.cached(key[:-4], 0)},
            Tier.DRAM: {key for key in keys if self.dram.has(key)},
            Tier.SSD: {key for key in keys if self.store.contains(key)},
        }
        pinned = {
            tier: sum(pins.is_pinned(key, tier) for key in there) * CHUNK
            for tier, there in where.items()
        }
        return TenantBytes(tenant, {t: len(there) * CHUNK for t, there in where.items()}, pinned)

    def everything(self, tenant: str | None = None) -> set[ChunkKey]:
        return {
            key
            for session in self.sessions.lineage.sessions()
            if tenant in (None, tenant_of(session))
            for key, _ in self.sessions.everything(session)
        }

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.manager.shutdown()


TestTiers = TiersMachine.TestCase
TestTiers.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
