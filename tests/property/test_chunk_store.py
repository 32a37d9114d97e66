"""An SSD store against a dict, with restarts, kills and a medium that is tampered with."""

import os
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing
from tests.contract.store_faults import disk_bytes
from tests.damage import damaged, signed
from tests.ssd_sweep import UnsyncedFiles

SESSIONS = [SessionKey(name) for name in ("acme/a", "acme/b", "evil/e")]
CHUNK = 3000
LIMIT = 190_000
NUMBERS = st.integers(0, 40)
OWNERS = st.sampled_from(SESSIONS)
FILES = UnsyncedFiles()


def key(session: SessionKey, number: int) -> ChunkKey:
    """Keys of two tenants never meet."""
    return ChunkKey(session[:4].encode() + number.to_bytes(4, "big"))


EVERY_KEY = [key(session, number) for session in SESSIONS[1:] for number in range(41)]


class StoreMachine(RuleBasedStateMachine):
    """``held`` may be larger than what the store holds: it may forget, but not lie. Once the medium
    was tampered with, what was deleted may come back, as what was once put under its key; what was
    shredded never."""

    @initialize(
        segment=st.sampled_from([1, 3 * CHUNK, 64 * CHUNK]),
        snapshot_after=st.sampled_from([1, 99]),
        encrypted=st.booleans(),
    )
    def begin(self, segment: int, snapshot_after: int, encrypted: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.root = self.folder / "root"
        self.now = 1e9
        self.config = SsdConfig(
            root=self.root,
            fingerprint="f",
            chunk_bytes=CHUNK,
            bytes_limit=LIMIT,
            segment_bytes=segment,
            snapshot_after=snapshot_after,
            read_threads=1,
        )
        self.encrypted = encrypted
        self.held: dict[ChunkKey, bytes] = {}
        self.ever: dict[tuple[ChunkKey, bytes], SessionKey] = {}
        """All that was put, and whose shred takes it."""
        self.shredded: set[tuple[ChunkKey, bytes]] = set()
        self.unneeded: set[ChunkKey] = set()
        """What was ever ranked low, or may have been behind a hole: it is not copied."""
        self.tampered = False
        self.signed = False
        """Somebody who knows the format did it: what he says of its version is believed."""
        self.version = 0
        self.store = self.open()

    def open(self) -> SsdStore:
        return SsdStore.open(self.config, self.clock, files=FILES, make_sealer=self.make_sealer)

    def make_sealer(self) -> Sealer:
        if not self.encrypted:
            return ClearSealer()
        return EncryptedSealer(Keyring.open(self.root / "keys", bytes(32), FILES))

    def clock(self) -> float:
        self.now += 1
        return self.now

    @rule(numbers=st.lists(NUMBERS, max_size=12), session=OWNERS)
    def put(self, numbers: list[int], session: SessionKey) -> None:
        keys = [key(session, n) for n in numbers]
        self.version += 1
        fill = self.version.to_bytes(4, "big")
        chunks = [(fill + bytes([n])) * (CHUNK // 5) for n in numbers]
        outcomes = self.store.put(keys, [memoryview(chunk) for chunk in chunks], session)
        for name, chunk, outcome in zip(keys, chunks, outcomes, strict=True):
            if outcome is WriteOutcome.STORED:
                self.held[name] = chunk
                self.ever[name, chunk] = session
            if outcome is not WriteOutcome.REFUSED:
                assert self.store.contains(name)

    @rule(numbers=st.lists(NUMBERS, max_size=12), session=OWNERS)
    def get(self, numbers: list[int], session: SessionKey) -> None:
        keys = [key(session, n) for n in numbers]
        buffers = [memoryview(bytearray(CHUNK)) for _ in keys]
        contained = [self.store.contains(name) for name in keys]
        outcomes = self.store.get(keys, buffers)
        for name, buffer, outcome, there in zip(keys, buffers, outcomes, contained, strict=True):
            if outcome is ReadOutcome.OK:
                assert (name, bytes(buffer)) in self.ever
                assert (name, bytes(buffer)) not in self.shredded
                assert self.tampered or buffer == self.held[name]
            elif not self.tampered:
                assert outcome is ReadOutcome.MISSING
                assert not there

    @rule(numbers=st.lists(NUMBERS, max_size=6), session=OWNERS)
    def delete(self, numbers: list[int], session: SessionKey) -> None:
        keys = [key(session, n) for n in numbers]
        self.store.delete(keys)
        for name in keys:
            self.held.pop(name, None)
            assert not self.store.contains(name)

    @rule(
        stakes=st.lists(
            st.tuples(
                OWNERS, st.lists(NUMBERS, unique=True), st.integers(0, 20), st.floats(0, 100)
            ),
            max_size=3,
            unique_by=lambda stake: stake[0],
        ),
    )
    def expect(self, stakes: list[tuple[SessionKey, list[int], int, float]]) -> None:
        told = tuple(
            Stake(session, tuple(key(session, n) for n in numbers), above, rate)
            for session, numbers, above, rate in stakes
        )
        self.unneeded.update(key for stake in told for key in stake.chain)
        self.store.expect(lambda: Expectation(told, Price(1.0, 0.1), self.now))

    @rule(
        numbers=st.lists(NUMBERS, max_size=12), session=OWNERS, standing=st.sampled_from(Standing)
    )
    def rank(self, numbers: list[int], session: SessionKey, standing: Standing) -> None:
        keys = [key(session, n) for n in numbers]
        self.unneeded.update(keys if standing is Standing.SUPERSEDED else ())
        self.store.rank(keys, standing)

    @rule(session=OWNERS, kept=st.lists(NUMBERS, max_size=20))
    def shred(self, session: SessionKey, kept: list[int]) -> None:
        keep = {key(session, n) for n in kept}
        before = {name for name in EVERY_KEY if self.store.contains(name)}
        try:
            self.store.shred(session, keep)
        except OSError:
            assert self.tampered
            return
        if not self.encrypted:
            return
        for (name, chunk), owner in list(self.ever.items()):
            if owner != session:
                continue
            if name in keep and self.held.get(name) == chunk:
                self.ever[name, chunk] = SessionKey("nobody's alone")
                assert self.store.contains(name) == (name in before)
            else:
                self.shredded.add((name, chunk))
                if self.held.get(name) == chunk:
                    del self.held[name]
                    assert self.tampered or not self.store.contains(name)

    @rule()
    def compact(self) -> None:
        before = {name for name in EVERY_KEY if self.store.contains(name)}
        with suppress(OSError):
            self.store.compact()
            after = {name for name in EVERY_KEY if self.store.contains(name)}
            assert self.tampered or before - self.unneeded <= after <= before

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        before = {name for name in EVERY_KEY if self.store.contains(name)}
        if kill:
            # What a dead process leaves: its lock is gone, its threads are idle.
            self.store._root.release()
            self.store._pool.shutdown(10)
        else:
            self.store.close()
        try:
            self.store = self.open()
        except StoreUnusable:
            assert self.signed
            self.lose_everything()
            self.store = self.open()
        after = {name for name in EVERY_KEY if self.store.contains(name)}
        if not self.tampered and not self.store.stats().evicted_chunks:
            assert after == before

    @rule(which=st.integers(0, 1000), chance=st.randoms(use_true_random=True), sign=st.booleans())
    def damage(self, which: int, chance: random.Random, sign: bool) -> None:
        path = self.some_file(which)
        if path and (data := path.read_bytes()):
            data = damaged(chance, data, [data])
            self.signed = self.signed or sign
            path.write_bytes(signed(path.name, data) if sign else data)

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
        shutil.rmtree(self.root, ignore_errors=True)

    def some_file(self, which: int) -> Path | None:
        files = sorted(self.root.glob("f/*"))
        self.tampered = self.tampered or bool(files)
        return files[which % len(files)] if files else None

    @invariant()
    def limited(self) -> None:
        if self.root.exists():
            assert disk_bytes(self.root) <= LIMIT
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
