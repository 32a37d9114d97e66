"""What segments are worth, followed through writes and losses, against what a look at everything
says."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.worths import Worths
from cache_tiers.types import ChunkKey, SessionKey

SESSIONS = [SessionKey(f"t/{name}") for name in "abcd"]
TEXTS = st.text("xy", min_size=1, max_size=7)
SEGMENTS = st.integers(1, 4)
PRICE = Price(1.0, 0.5)
SEAL = Seal(0, bytes(12), bytes(48), bytes(16))


def chain_of(text: str) -> tuple[ChunkKey, ...]:
    """A chunk a letter, each named by all before it."""
    return tuple(ChunkKey(text[: i + 1].encode()) for i in range(len(text)))


class Keys:
    owners = frozenset({0})
    kept = frozenset[bytes]()


class WorthsMachine(RuleBasedStateMachine):
    """``places`` is what the index knows."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(Keys())
        self.worths = Worths(self.index)
        self.places: dict[ChunkKey, int] = {}
        self.stakes: dict[SessionKey, Stake] = {}
        self.page = 0
        self.tell()

    def put(self, key: ChunkKey, segment: int) -> None:
        self.page += 1
        self.index.add(segment, [(key, Extent(segment, self.page, 1, SEAL))])
        self.places[key] = segment

    @rule(text=TEXTS, segment=SEGMENTS)
    def write(self, text: str, segment: int) -> None:
        """What is missing of a chain, in order, as a turn does that has computed it."""
        for key in chain_of(text):
            if key not in self.places:
                self.put(key, segment)
        self.tell()

    @rule(segment=SEGMENTS)
    def lose_segment(self, segment: int) -> None:
        self.index.forget_segment(segment)
        self.worths.left(segment)
        for key in [key for key, place in self.places.items() if place == segment]:
            del self.places[key]

    @rule(text=TEXTS)
    def lose_chunk(self, text: str) -> None:
        key = chain_of(text)[-1]
        for _, extent in self.index.forget([key]):
            self.worths.left(extent.segment)
        self.places.pop(key, None)

    @rule(text=TEXTS, segment=SEGMENTS)
    def move(self, text: str, segment: int) -> None:
        key = chain_of(text)[-1]
        if key in self.places:
            before = self.places[key]
            self.put(key, segment)
            self.worths.left(before)

    @rule(
        session=st.sampled_from(SESSIONS),
        text=TEXTS,
        above=st.integers(0, 7),
        rate=st.floats(0, 10),
    )
    def turn(self, session: SessionKey, text: str, above: int, rate: float) -> None:
        self.stakes[session] = Stake(session, chain_of(text), above, rate)
        self.tell()

    @rule(session=st.sampled_from(SESSIONS))
    def drop(self, session: SessionKey) -> None:
        self.stakes.pop(session, None)
        self.tell()

    @rule()
    def tell(self) -> None:
        self.expected = Expectation(tuple(self.stakes.values()), PRICE, 0.0)
        self.worths.tell(lambda expected=self.expected: expected)
        self.worths.settle()

    @invariant()
    def chunks_behind_holes_are_stranded_and_nothing_else_is(self) -> None:
        self.worths.settle()
        named = {key for stake in self.stakes.values() for key in stake.chain}
        stranded = (named & self.places.keys()) - self.expected.useful(self.places).keys()
        for segment in range(1, 5):
            here = {key for key in stranded if self.places[key] == segment}
            assert self.worths.stranded(segment) == len(here)
            assert self.worths.stranded_chunks(segment) == here

    @invariant()
    def segments_are_worth_what_sessions_would_lose(self) -> None:
        self.worths.settle()
        for segment in range(1, 5):
            worth = self.worths.of(segment, chunks=0, last_used=-math.inf)
            assert worth == pytest.approx(self.lost(segment))

    def lost(self, segment: int) -> float:
        worth = 0.0
        for stake in self.stakes.values():
            usable = stake.hole(self.places, stake.above)
            first = next(
                (i for i, key in enumerate(stake.chain) if self.places.get(key) == segment), usable
            )
            worth += stake.rate * max(0.0, PRICE.upto(usable) - PRICE.upto(first))
        return worth

    @invariant()
    def torn_is_who_has_something_behind_a_hole(self) -> None:
        self.worths.settle()
        torn = [
            stake.session
            for stake in self.stakes.values()
            if any(key in self.places for key in stake.chain[stake.hole(self.places) :])
        ]
        assert list(self.worths.torn) == torn


TestWorths = WorthsMachine.TestCase
TestWorths.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
