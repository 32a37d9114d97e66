"""DRAM's order of eviction against a list, and pins that give way only when they must."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.types import ChunkKey, Standing
from engine.core_plugin.dram_policy import RankedLru
from engine.core_plugin.vllm_compat import ChunkStatus, OffloadKey, ReqContext

KEYS = st.integers(0, 15).map(lambda number: ChunkKey(bytes([number]) * 36))
STANDINGS = st.sampled_from(Standing)


class OrderMachine(RuleBasedStateMachine):
    """``order`` has the longest unused first; ``standing`` is what everybody was told."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = RankedLru(16)
        self.policy.standing_of = lambda key: self.standing.get(key, Standing.ORDINARY)
        self.standing: dict[ChunkKey, Standing] = {}
        self.order: list[ChunkKey] = []
        self.busy: set[ChunkKey] = set()

    @rule(key=KEYS)
    def come(self, key: ChunkKey) -> None:
        if key not in self.order:
            self.policy.insert(OffloadKey(key), ChunkStatus(0))
            self.order.append(key)
            self.busy.add(key)

    @rule(key=KEYS)
    def idle(self, key: ChunkKey) -> None:
        if key in self.busy:
            self.policy.chunks[OffloadKey(key)].ref_cnt = 0
            self.policy.mark_evictable(OffloadKey(key))
            self.busy.discard(key)

    @rule(key=KEYS)
    def use(self, key: ChunkKey) -> None:
        if key in self.order and key not in self.busy:
            self.policy.chunks[OffloadKey(key)].ref_cnt = 1
            self.policy.mark_non_evictable(OffloadKey(key))
            self.busy.add(key)

    @rule(keys=st.lists(KEYS, max_size=5, unique=True))
    def touch(self, keys: list[ChunkKey]) -> None:
        self.policy.touch([OffloadKey(key) for key in keys], ReqContext(req_id="x"))
        for key in reversed(keys):
            if key in self.order:
                self.order.remove(key)
                self.order.append(key)

    @rule(keys=st.lists(KEYS, max_size=6), standing=STANDINGS)
    def rank(self, keys: list[ChunkKey], standing: Standing) -> None:
        self.standing.update(dict.fromkeys(keys, standing))
        self.policy.rank(keys, standing)

    @rule(key=KEYS)
    def go(self, key: ChunkKey) -> None:
        if key in self.busy:
            self.policy.remove(OffloadKey(key))
            self.busy.discard(key)
            self.order.remove(key)

    @rule(count=st.integers(1, 6), protected=st.sets(KEYS, max_size=3))
    def evict(self, count: int, protected: set[ChunkKey]) -> None:
        free = [key for key in self.order if key not in self.busy and key not in protected]
        free.sort(key=lambda key: self.standing.get(key, Standing.ORDINARY))
        evicted = self.policy.evict(count, {OffloadKey(key) for key in protected})
        if count > len(free):
            assert evicted is None
            return
        assert evicted is not None
        assert [ChunkKey(key) for key, _ in evicted] == free[:count]
        for key in free[:count]:
            self.order.remove(key)

    @invariant()
    def idle_pins_are_counted(self) -> None:
        idle = [key for key in self.order if key not in self.busy]
        pinned = [key for key in idle if self.standing.get(key) is Standing.PINNED]
        assert self.policy.idle_pinned == len(pinned)


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
