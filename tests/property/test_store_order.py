"""What a store that is too small lets go: the limit holds, pins go last, nothing of use goes before
what is behind a hole, and the same again gives the same."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.memory_store import MemoryStore
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ChunkStore, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing
from tests.contract.store_faults import disk_bytes

CHUNK = 4096
ROOM = 12
"""Chunks that the store in memory takes."""
SESSIONS = ["t/a", "t/b", "t/c", "t/d"]
TEXTS = st.text("xy", min_size=1, max_size=6)


@dataclass(frozen=True)
class Turn:
    """A session's chain is written, then something is said of it."""

    session: str
    text: str
    rate: float
    above: int
    standing: Standing
    tells: bool


TURNS = st.lists(
    st.builds(
        Turn,
        st.sampled_from(SESSIONS),
        TEXTS,
        st.floats(0, 10),
        st.integers(0, 2),
        st.sampled_from([Standing.ORDINARY] * 3 + list(Standing)),
        st.booleans(),
    ),
    max_size=25,
)


def chain_of(session: str, text: str) -> tuple[ChunkKey, ...]:
    """A chunk a letter, each named by all before it; the first are everybody's."""
    own = session if len(text) > 2 else ""
    return tuple(
        ChunkKey(f"{own if i > 1 else ''}{text[: i + 1]}".encode()) for i in range(len(text))
    )


class Replay:
    """Turns into a store."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self.stakes: dict[str, Stake] = {}
        self.expected: Expectation | None = None
        self.standings: dict[ChunkKey, Standing] = {}

    def run(self, turn: Turn) -> None:
        chain = chain_of(turn.session, turn.text)
        stake = Stake(SessionKey(turn.session), chain, turn.above, turn.rate)
        self.stakes[turn.session] = stake
        if turn.tells:
            told = Expectation(tuple(self.stakes.values()), Price(1.0, 0.1), 0.0)
            self.expected = told
            self.store.expect(lambda: told)
        self.put(chain, turn.session)
        self.store.rank(chain, turn.standing)
        for key in chain:
            if self.store.contains(key):
                self.standings[key] = turn.standing

    def put(self, chain: Sequence[ChunkKey], session: str) -> None:
        for key in chain:
            self.store.put([key], [memoryview(bytes(CHUNK))], SessionKey(session))

    def held(self) -> set[ChunkKey]:
        every = {key for stake in self.stakes.values() for key in stake.chain}
        return {key for key in every | self.standings.keys() if self.store.contains(key)}


class Watched(Replay):
    """Looks at each eviction of a store that evicts chunk by chunk."""

    def put(self, chain: Sequence[ChunkKey], session: str) -> None:
        for key in chain:
            before = self.held()
            outcome = self.store.put([key], [memoryview(bytes(CHUNK))], SessionKey(session))
            gone = before - self.held()
            assert self.store.stats().bytes_used <= ROOM * CHUNK
            assert outcome == [WriteOutcome.PRESENT if key in before else WriteOutcome.STORED]
            for each in gone:
                self.standings.setdefault(each, Standing.ORDINARY)
                stayed = before - {each}
                assert self.level(each, before) <= min(self.level(k, before) for k in stayed)
                del self.standings[each]

    def level(self, key: ChunkKey, held: set[ChunkKey]) -> int:
        standing = self.standings.get(key, Standing.ORDINARY)
        if standing is not Standing.PINNED and self.expected is not None:
            named = {k for stake in self.expected.stakes for k in stake.chain}
            if key in named - self.expected.useful(held).keys():
                return Standing.SUPERSEDED
        return standing


@given(TURNS)
@settings(max_examples=150, deadline=None)
def test_what_goes_from_memory(turns: list[Turn]) -> None:
    replay = Watched(MemoryStore(CHUNK, ROOM * CHUNK))
    for turn in turns:
        replay.run(turn)


@given(TURNS, st.sampled_from([1, 3 * CHUNK]))
@settings(max_examples=25, deadline=None)
def test_what_goes_from_the_ssd(turns: list[Turn], segment_bytes: int) -> None:
    """Twice the same, within the limit; pins are missing only when they are reported."""
    seen = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            config = SsdConfig(
                root=Path(folder) / "root",
                fingerprint="f",
                chunk_bytes=CHUNK,
                bytes_limit=40 * CHUNK,
                segment_bytes=segment_bytes,
                read_threads=1,
            )
            ticks = iter(range(10**9))
            store = SsdStore.open(config, lambda ticks=ticks: float(next(ticks)))
            replay = Replay(store)
            broken: set[ChunkKey] = set()
            try:
                for turn in turns:
                    replay.run(turn)
                    assert disk_bytes(config.root) <= config.bytes_limit
                    broken |= set(store.take_evicted_pins())
                seen.append(sorted(replay.held()))
                for key, standing in replay.standings.items():
                    assert standing is not Standing.PINNED or store.contains(key) or key in broken
            finally:
                store.close()
    assert seen[0] == seen[1]
