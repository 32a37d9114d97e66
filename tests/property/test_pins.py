"""Pins against a list: budgets hold, the oldest is broken first, tiers hear of every change."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.pins import PinBook
from cache_tiers.types import ChunkKey, SessionKey, Tier

SESSIONS = st.sampled_from([SessionKey(f"t/{name}") for name in "abcde"])
TIERS = st.sampled_from(Tier)
CHAINS = st.text("xy", max_size=6).map(
    lambda text: tuple(ChunkKey(text[: i + 1].encode()) for i in range(len(text)))
)
BUDGETS = {Tier.DEVICE: 4, Tier.DRAM: 8, Tier.SSD: 100}


class PinMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.told: dict[Tier, set[ChunkKey]] = {tier: set() for tier in Tier}
        self.book = PinBook(BUDGETS, self.hear)
        self.pins: dict[tuple[SessionKey, Tier], tuple[float, tuple[ChunkKey, ...]]] = {}
        self.broken: list[tuple[SessionKey, Tier]] = []

    def hear(self, tier: Tier, keys: Sequence[ChunkKey]) -> None:
        assert len(set(keys)) == len(keys)
        for key in keys:
            pinned = self.book.is_pinned(key, tier)
            assert pinned != (key in self.told[tier]), "told of no change"
            (self.told[tier].add if pinned else self.told[tier].discard)(key)

    def claimed(self, tier: Tier) -> set[ChunkKey]:
        chains = [keys for (_, each), (_, keys) in self.pins.items() if each is tier]
        return {key for keys in chains for key in keys}

    @rule(session=SESSIONS, tier=TIERS, chain=CHAINS, ttl=st.integers(1, 9))
    def pin(self, session: SessionKey, tier: Tier, chain: tuple[ChunkKey, ...], ttl: int) -> None:
        earlier = self.pins.pop((session, tier), None)
        fits = len(self.claimed(tier).union(chain)) <= BUDGETS[tier]
        if earlier is not None and not fits:
            # It stays, and as old as it was: put it back where it was.
            self.pins = {
                name: self.pins.get(name, earlier) for name in [*self.order, (session, tier)]
            }
        granted = self.book.pin(session, tier, chain, self.now + ttl)
        assert granted == fits
        if granted:
            self.pins[session, tier] = (self.now + ttl, chain)
        self.order = list(self.book._pins)

    order: list[tuple[SessionKey, Tier]] = []  # noqa: RUF012 - set anew by every rule

    @rule(session=SESSIONS, tier=st.none() | TIERS)
    def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        self.book.unpin(session, tier)
        for each in Tier if tier is None else [tier]:
            self.pins.pop((session, each), None)
        self.order = list(self.book._pins)

    @rule(session=SESSIONS, chain=CHAINS)
    def follow(self, session: SessionKey, chain: tuple[ChunkKey, ...]) -> None:
        self.book.follow(session, chain)
        for (each, tier), (until, _) in list(self.pins.items()):
            if each == session:
                kept = self.book._pins[session, tier].keys
                assert kept == chain[: len(kept)]
                self.pins[session, tier] = (until, kept)
                full = len(self.claimed(tier)) == BUDGETS[tier]
                assert full or kept == chain, "room was left"
        self.order = list(self.book._pins)

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.book.expire(self.now)
        self.pins = {name: pin for name, pin in self.pins.items() if pin[0] > self.now}
        self.order = list(self.book._pins)

    @rule(tier=TIERS)
    def press(self, tier: Tier) -> None:
        oldest = next((name for name in self.order if name[1] is tier), None)
        assert self.book.break_oldest(tier, "x") == (oldest is not None)
        if oldest is not None:
            del self.pins[oldest]
            self.broken.append(oldest)
        self.order = list(self.book._pins)

    @rule(tier=TIERS, chain=CHAINS)
    def lose(self, tier: Tier, chain: tuple[ChunkKey, ...]) -> None:
        self.book.lose(chain, tier, "x")
        for name in self.order:
            if name[1] is tier and not set(chain).isdisjoint(self.pins[name][1]):
                del self.pins[name]
                self.broken.append(name)
        self.order = list(self.book._pins)

    @rule()
    def take_broken(self) -> None:
        taken = [(each.session, each.tier) for each in self.book.take_broken()]
        assert taken == self.broken
        self.broken = []

    @invariant()
    def claims_are_those_of_the_pins_and_within_the_budget(self) -> None:
        assert set(self.order) == set(self.pins) == set(self.book._pins)
        for tier in Tier:
            assert self.told[tier] == self.claimed(tier)
            assert self.book.claimed(tier) == len(self.claimed(tier)) <= BUDGETS[tier]


TestPins = PinMachine.TestCase
TestPins.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
