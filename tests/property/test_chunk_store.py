"""An SSD store against a dict, with restarts and a medium that is tampered with."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cache_tiers.ssd.store import SsdConfig, SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey
from tests.contract.store_faults import disk_bytes

CHUNK = 3000
LIMIT = 90_000
NUMBERS = st.integers(0, 40)


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key" + number.to_bytes(4, "big"))


class StoreMachine(RuleBasedStateMachine):
    """``held`` may be larger than what the store holds: it may forget, but not lie. Once a journal
    was tampered with, what was deleted may come back, as what was once put under its key."""

    @initialize(segment=st.sampled_from([1, 3 * CHUNK, 64 * CHUNK]))
    def begin(self, segment: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.now = 1e9
        self.config = SsdConfig(self.folder / "root", "f", CHUNK, LIMIT, segment)
        self.held: dict[ChunkKey, bytes] = {}
        self.ever: set[tuple[ChunkKey, bytes]] = set()
        self.tampered = False
        self.version = 0
        self.store = self.open()

    def open(self) -> SsdStore:
        return SsdStore.open(self.config, self.clock)

    def clock(self) -> float:
        self.now += 1
        return self.now

    @rule(numbers=st.lists(NUMBERS, max_size=12))
    def put(self, numbers: list[int]) -> None:
        keys = [key(n) for n in numbers]
        self.version += 1
        fill = self.version.to_bytes(4, "big")
        chunks = [(fill + bytes([n])) * (CHUNK // 5) for n in numbers]
        outcomes = self.store.put(keys, [memoryview(chunk) for chunk in chunks])
        for name, chunk, outcome in zip(keys, chunks, outcomes, strict=True):
            if outcome is WriteOutcome.STORED:
                self.held[name] = chunk
                self.ever.add((name, chunk))
            if outcome is not WriteOutcome.REFUSED:
                assert self.store.contains(name)

    @rule(numbers=st.lists(NUMBERS, max_size=12))
    def get(self, numbers: list[int]) -> None:
        keys = [key(n) for n in numbers]
        buffers = [memoryview(bytearray(CHUNK)) for _ in keys]
        contained = [self.store.contains(name) for name in keys]
        outcomes = self.store.get(keys, buffers)
        for name, buffer, outcome, there in zip(keys, buffers, outcomes, contained, strict=True):
            if outcome is ReadOutcome.OK:
                assert (name, bytes(buffer)) in self.ever
                assert self.tampered or buffer == self.held[name]
            elif not self.tampered:
                assert outcome is ReadOutcome.MISSING
                assert not there

    @rule(numbers=st.lists(NUMBERS, max_size=6))
    def delete(self, numbers: list[int]) -> None:
        keys = [key(n) for n in numbers]
        self.store.delete(keys)
        for name in keys:
            self.held.pop(name, None)
            assert not self.store.contains(name)

    @rule()
    def restart(self) -> None:
        before = {name for name in self.held if self.store.contains(name)}
        self.store.close()
        self.store = self.open()
        after = {name for name in map(key, range(41)) if self.store.contains(name)}
        if not self.tampered:
            assert after == before

    @rule(which=st.integers(0, 1000), at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def flip_a_bit(self, which: int, at: int, bit: int) -> None:
        path = self.some_file(which)
        if path and (size := path.stat().st_size):
            with path.open("r+b") as file:
                file.seek(at % size)
                byte = file.read(1)[0] ^ (1 << bit)
                file.seek(at % size)
                file.write(bytes([byte]))

    @rule(which=st.integers(0, 1000), at=st.integers(0, 10**6))
    def truncate(self, which: int, at: int) -> None:
        if path := self.some_file(which):
            os.truncate(path, at % (path.stat().st_size + 1))

    @rule(which=st.integers(0, 1000))
    def remove(self, which: int) -> None:
        if path := self.some_file(which):
            path.unlink()

    @rule()
    def lose_everything(self) -> None:
        self.tampered = True
        shutil.rmtree(self.folder / "root", ignore_errors=True)

    def some_file(self, which: int) -> Path | None:
        files = sorted(self.folder.glob("root/f/*.*"))
        self.tampered = self.tampered or bool(files)
        return files[which % len(files)] if files else None

    @invariant()
    def limited(self) -> None:
        if (self.folder / "root").exists():
            assert disk_bytes(self.folder / "root") <= LIMIT
        stats = self.store.stats()
        assert stats.bytes_used <= LIMIT

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
