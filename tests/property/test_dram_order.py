"""DRAM's order of eviction against lists: standing, then owner, then what the policy of prefixes
says; chains go from their ends, and pins give way only when they must."""

from collections.abc import Iterator, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.eviction.prefix_policy import Cut
from cache_tiers.types import ChunkKey, SessionKey, Standing
from engine.core_plugin.dram_policy import DramPolicy
from engine.core_plugin.vllm_compat import ChunkStatus, OffloadKey, ReqContext

SESSIONS = [SessionKey(f"t/{name}") for name in "abc"]
CHAINS = {
    session: [ChunkKey(bytes([8 * i + n]) * 36) for n in range(6)]
    for i, session in enumerate(SESSIONS)
}
CHAINS[SESSIONS[2]][:2] = CHAINS[SESSIONS[0]][:2]
"""The third is a fork of the first."""
LOOSE = [ChunkKey(bytes([200 + n]) * 36) for n in range(3)]
ALL = list(dict.fromkeys([key for chain in CHAINS.values() for key in chain] + LOOSE))
KEYS = st.sampled_from(ALL)
STANDINGS = st.sampled_from(Standing)
CONTEXT = ReqContext(req_id="x")


class ByName:
    """A policy of prefixes that remembers what it was told: idle sessions by name, first all but
    two chunks of each, then all."""

    def __init__(self) -> None:
        self.told: dict[SessionKey, int] = {}
        self.busy: set[SessionKey] = set()

    def began(self, session: SessionKey, now: float) -> None:
        self.busy.add(session)

    def ended(self, session: SessionKey, chunks: int, now: float) -> None:
        self.busy.discard(session)

    def holds(self, session: SessionKey, chunks: int, now: float) -> None:
        self.told[session] = chunks

    def forget(self, session: SessionKey) -> None:
        raise AssertionError("nobody was forgotten")

    def victims(self, now: float) -> Iterator[Cut]:
        for keep in (2, 0):
            for session in sorted(self.told):
                if self.told[session] and session not in self.busy:
                    yield Cut(session, keep)


class Sessions:
    """Chains as above."""

    def chain(self, session: SessionKey) -> Sequence[ChunkKey]:
        return CHAINS[session]

    def is_shared(self, key: ChunkKey) -> bool:
        return sum(key in chain for chain in CHAINS.values()) > 1

    def holders(self, keys: Sequence[ChunkKey]) -> dict[ChunkKey, SessionKey]:
        """The first by name but ``gone``."""
        found = {}
        for session in sorted(CHAINS, reverse=True):
            if session != self.gone:
                found.update({key: session for key in keys if key in CHAINS[session]})
        return found

    gone: SessionKey | None = None


class OrderMachine(RuleBasedStateMachine):
    """``order`` has the longest unused first; ``standing`` is what everybody was told."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes = ByName()
        self.policy = DramPolicy(16)
        self.sessions = Sessions()
        self.policy.bind(self.prefixes, self.sessions, clock=lambda: 0.0)
        self.policy.standing_of = lambda key: self.standing.get(key, Standing.ORDINARY)
        self.heard: dict[SessionKey, int] = {}
        self.policy.on_held = self.heard.__setitem__
        self.standing: dict[ChunkKey, Standing] = {}
        self.owner: dict[ChunkKey, SessionKey | None] = {}
        self.order: list[ChunkKey] = []
        self.busy: set[ChunkKey] = set()

    @rule(key=KEYS)
    def come(self, key: ChunkKey) -> None:
        if key not in self.order:
            self.policy.insert(OffloadKey(key), ChunkStatus(0))
            self.order.append(key)
            self.owner[key] = None
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

    @rule(session=st.sampled_from(SESSIONS))
    def belong(self, session: SessionKey) -> None:
        self.policy.own([OffloadKey(key) for key in CHAINS[session]], session)
        self.owner |= {key: session for key in CHAINS[session] if key in self.order}

    @rule(session=st.sampled_from(SESSIONS))
    def end(self, session: SessionKey) -> None:
        """What others hold too is theirs; the rest nobody's. The chain may come again."""
        self.sessions.gone = session
        heirs = self.sessions.holders(self.order)
        self.policy.disown(session)
        self.sessions.gone = None
        self.owner |= {k: heirs.get(k) for k in self.order if self.owner[k] == session}

    @rule(session=st.sampled_from(SESSIONS), begins=st.booleans())
    def turn(self, session: SessionKey, begins: bool) -> None:
        if begins:
            self.prefixes.began(session, 0.0)
        else:
            self.prefixes.ended(session, 6, 0.0)

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
        evicted = self.policy.evict(count, {OffloadKey(key) for key in protected})
        if count > len(free):
            assert evicted is None
            return
        assert evicted is not None
        went = [ChunkKey(key) for key, _ in evicted]
        assert len(set(went)) == count
        stayed = [key for key in free if key not in went]
        assert max(map(self.level, went)) <= min(map(self.level, stayed), default=9)
        for session in SESSIONS:
            own = [k for k in CHAINS[session] if k in free and self.owner[k] == session]
            mine = [k for k in own if self.level(k) == 2]
            cut = [k for k in mine if k in went]
            assert cut == mine[len(mine) - len(cut) :], "a chain was not cut from its end"
        for key in went:
            self.order.remove(key)

    def level(self, key: ChunkKey) -> int:
        """The place of a chunk's kind in the order."""
        standing, owner = self.standing.get(key, Standing.ORDINARY), self.owner[key]
        if standing is Standing.SUPERSEDED:
            return 0
        if standing is Standing.PINNED:
            return 5
        if owner is None:
            return 1
        if owner in self.prefixes.busy:
            return 4
        return 3 if Sessions().is_shared(key) else 2

    @invariant()
    def idle_pins_are_counted(self) -> None:
        idle = [key for key in self.order if key not in self.busy]
        pinned = [key for key in idle if self.standing.get(key) is Standing.PINNED]
        assert self.policy.idle_pinned == len(pinned)

    @invariant()
    def what_is_held_is_told(self) -> None:
        for session in SESSIONS:
            held = [
                key
                for key in self.order
                if self.owner[key] == session
                and self.standing.get(key, Standing.ORDINARY) is not Standing.SUPERSEDED
            ]
            assert self.policy.held(session) == len(held)
            assert self.prefixes.told.get(session, 0) == len(held)
        assert self.heard == self.prefixes.told


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_touching_moves_a_chunk_back_and_the_end_before_its_beginning() -> None:
    policy = DramPolicy(4)
    keys = [OffloadKey(key) for key in LOOSE]
    for key in keys:
        policy.insert(key, ChunkStatus(0))
        policy.chunks[key].ref_cnt = 0
        policy.mark_evictable(key)
    policy.touch(keys[:2], CONTEXT)
    evicted = policy.evict(3, set())
    assert evicted is not None
    assert [key for key, _ in evicted] == [keys[2], keys[1], keys[0]]
