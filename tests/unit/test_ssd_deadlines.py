"""A disk that hangs: who has a deadline does not wait for it; when it answers it is used again."""

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.reading import Reading
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles

OWNER = SessionKey("acme/alice")
CHUNK = 4096
DEADLINE_S = 2.0
OK, LATE, MISSING = ReadOutcome.OK, ReadOutcome.LATE, ReadOutcome.MISSING
PATIENCE_S = 30.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(number: int) -> ChunkKey:
    return ChunkKey(b"k%d" % number)


def content(number: int) -> bytes:
    return bytes([number % 251 + 1]) * CHUNK


class Bench:
    """An encrypted store with chunks 0 to 39, whose disk can be made to hang."""

    def __init__(self, root: Path) -> None:
        self.files = FaultyFiles()
        self.clock = Clock()
        self.root = root
        config = SsdConfig(
            root=root,
            fingerprint="f",
            chunk_bytes=CHUNK,
            bytes_limit=2**20,
            read_threads=2,
            read_deadline_s=DEADLINE_S,
        )
        self.store = SsdStore.open(
            config, files=self.files, make_sealer=self.make_sealer, monotonic=self.clock
        )
        assert self.put(*range(40)) == [WriteOutcome.STORED] * 40

    def make_sealer(self) -> EncryptedSealer:
        return EncryptedSealer(Keyring.open(self.root / "keys", bytes(32), self.files))

    def put(self, *numbers: int) -> list[WriteOutcome]:
        chunks = [memoryview(content(number)) for number in numbers]
        return self.store.put([key(number) for number in numbers], chunks, OWNER)

    def read(self, *numbers: int, deadline_s: float = DEADLINE_S) -> "Read":
        return Read(self.store, numbers, deadline_s)

    def hang_reads(self) -> threading.Event:
        self.files.hang_reads = threading.Event()
        return self.files.hang_reads

    def a_call_hangs(self) -> None:
        """Return when one waits for the disk."""
        assert self.files.hung.acquire(timeout=PATIENCE_S)

    def let_go(self) -> None:
        for hang in (self.files.hang_reads, self.files.hang_writes):
            if hang is not None:
                hang.set()


class Read:
    """One read, and its buffers."""

    def __init__(self, store: SsdStore, numbers: Sequence[int], deadline_s: float) -> None:
        self.numbers = numbers
        self.views = [memoryview(bytearray(CHUNK)) for _ in numbers]
        self.reading: Reading = store.read([key(n) for n in numbers], self.views, deadline_s)

    def wait(self) -> list[ReadOutcome]:
        outcomes = self.reading.wait()
        for number, view, outcome in zip(self.numbers, self.views, outcomes, strict=True):
            assert outcome is not OK or view == content(number)
        return outcomes


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "root")
    yield bench
    bench.let_go()
    bench.store.close()


def test_late_after_the_deadline_and_released_when_the_disk_lets_go(bench: Bench) -> None:
    bench.hang_reads()
    read = bench.read(1, 99, 2)
    bench.a_call_hangs()
    bench.clock.now += DEADLINE_S
    assert read.reading.outcomes() is None
    bench.clock.now += 0.001
    assert read.reading.outcomes() == [LATE, MISSING, LATE]
    assert not read.reading.released
    assert bench.store.stats().late_reads == 2
    bench.let_go()
    assert read.wait() == [LATE, MISSING, LATE]
    assert read.reading.released
    assert bench.store.stats().late_reads == 2
    assert bench.read(1, 2).wait() == [OK, OK]


def test_everything_is_a_miss_while_the_disk_hangs(bench: Bench) -> None:
    bench.hang_reads()
    read = bench.read(1)
    bench.a_call_hangs()
    assert bench.store.contains(key(5))
    bench.clock.now += DEADLINE_S + 0.001
    assert read.reading.outcomes() == [LATE]
    assert not any(bench.store.contains(key(number)) for number in range(40))
    stats = bench.store.stats()
    assert (stats.healthy, stats.chunks) == (False, 40)
    bench.let_go()
    read.wait()
    assert all(bench.store.contains(key(number)) for number in range(40))
    assert bench.store.stats().healthy


def test_a_deadline_that_passes_just_before_the_transfers_own_is_enough(bench: Bench) -> None:
    """Who reads sets its deadline a moment before a thread takes the transfer up."""
    bench.hang_reads()
    read = bench.read(1, deadline_s=DEADLINE_S - 0.01)
    bench.a_call_hangs()
    bench.clock.now += DEADLINE_S - 0.005
    assert read.reading.outcomes() == [LATE]
    assert bench.store.contains(key(5))
    bench.clock.now += 0.006
    assert not bench.store.contains(key(5))
    assert not bench.store.stats().healthy


def test_a_short_deadline_says_nothing_of_the_disk(bench: Bench) -> None:
    bench.hang_reads()
    read = bench.read(1, deadline_s=0.1)
    bench.a_call_hangs()
    bench.clock.now += 0.2
    assert read.reading.outcomes() == [LATE]
    assert bench.store.contains(key(1))
    assert bench.store.stats().healthy
    bench.let_go()
    read.wait()
    bench.clock.now += 2 * DEADLINE_S
    assert bench.store.contains(key(1))


def test_one_line_when_it_hangs_and_one_when_it_answers(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.hang_reads()
    reads = [bench.read(number) for number in range(6)]
    bench.a_call_hangs()
    bench.clock.now += DEADLINE_S + 1
    assert all(read.reading.outcomes() == [LATE] for read in reads)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    bench.let_go()
    for read in reads:
        read.wait()
    assert bench.read(3).wait() == [OK]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_what_waits_behind_a_hung_disk_is_given_up_at_its_deadline(bench: Bench) -> None:
    bench.hang_reads()
    stuck = [bench.read(number) for number in (1, 10)]
    for _ in stuck:
        bench.a_call_hangs()
    for _ in range(100):
        waiting = bench.read(20, 25, 30)
        bench.clock.now += DEADLINE_S + 1
        assert waiting.reading.outcomes() == [LATE] * 3
        assert waiting.reading.released
    assert all(read.reading.outcomes() == [LATE] for read in stuck)
    assert not any(read.reading.released for read in stuck)
    calls = bench.files.reads
    bench.let_go()
    for read in stuck:
        assert read.wait() == [LATE]
    assert bench.read(20).wait() == [OK]
    assert bench.files.reads == calls + 1


def test_a_write_that_hangs_holds_up_no_question(bench: Bench) -> None:
    bench.files.hang_writes = threading.Event()
    outcomes: list[WriteOutcome] = []
    writer = threading.Thread(target=lambda: outcomes.extend(bench.put(50, 51)), daemon=True)
    writer.start()
    bench.a_call_hangs()
    assert bench.store.contains(key(1))
    assert not bench.store.contains(key(50))
    assert bench.store.stats().chunks == 40
    assert bench.read(1, 2, 50).wait() == [OK, OK, MISSING]
    assert writer.is_alive()
    bench.let_go()
    writer.join(PATIENCE_S)
    assert outcomes == [WriteOutcome.STORED] * 2
    assert bench.read(50).wait() == [OK]


def test_reads_and_writes_hang_together_and_go_on_together(bench: Bench) -> None:
    hang = threading.Event()
    bench.files.hang_reads = bench.files.hang_writes = hang
    read = bench.read(1, 2, 3)
    bench.a_call_hangs()
    done: list[object] = []
    writers = [
        threading.Thread(target=lambda work=work: done.append(work()), daemon=True)
        for work in (lambda: bench.put(60), lambda: bench.store.delete([key(4)]))
    ]
    for writer in writers:
        writer.start()
    bench.a_call_hangs()
    bench.clock.now += DEADLINE_S + 1
    assert read.reading.outcomes() == [LATE] * 3
    assert not bench.store.contains(key(1))
    bench.let_go()
    for writer in writers:
        writer.join(PATIENCE_S)
    assert sorted(map(str, done)) == ["1", str([WriteOutcome.STORED])]
    assert read.wait() == [LATE] * 3
    assert bench.read(1, 4, 60).wait() == [OK, MISSING, OK]
    assert bench.store.stats().healthy
