"""A limit to what is read from the disk a second."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey, SessionKey

CHUNK = 4096
OK, LATE, MISSING = ReadOutcome.OK, ReadOutcome.LATE, ReadOutcome.MISSING


class Clock:
    """Moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 50.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        with self._lock:
            self.now += seconds


def test_each_waits_behind_those_before() -> None:
    clock = Clock()
    pace = Pace(100, clock, clock.sleep)
    pace.wait(100)
    assert clock.now == pytest.approx(51)
    pace.wait(50)
    assert clock.now == pytest.approx(51.5)


def test_a_pause_gives_no_burst() -> None:
    clock = Clock()
    pace = Pace(100, clock, clock.sleep)
    clock.now += 1000
    began = clock.now
    for _ in range(5):
        pace.wait(100)
    assert clock.now - began == pytest.approx(5)


def test_what_would_be_late_is_refused_at_once_and_takes_nothing() -> None:
    clock = Clock()
    pace = Pace(100, clock, clock.sleep)
    assert not pace.wait(200, until=51.9)
    assert clock.now == 50.0
    assert pace.wait(100, until=51.0)
    assert clock.now == pytest.approx(51)


def test_no_limit_is_no_wait() -> None:
    clock = Clock()
    assert Pace(math.inf, clock, clock.sleep).wait(2**40, until=50.0)
    assert clock.now == 50.0


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Pace(rate)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SsdStore]:
    config = SsdConfig(
        root=tmp_path / "root",
        fingerprint="f",
        chunk_bytes=CHUNK,
        bytes_limit=2**20,
        read_bytes_per_s=10 * CHUNK,
        read_threads=1,
    )
    store = SsdStore.open(config, monotonic=clock, sleep=clock.sleep)
    keys = [key(number) for number in range(8)]
    store.put(keys, [memoryview(bytes(CHUNK))] * 8, SessionKey("acme/a"))
    yield store
    store.close()


def key(number: int) -> ChunkKey:
    return ChunkKey(b"k%d" % number)


def read(store: SsdStore, numbers: range, deadline_s: float) -> list[ReadOutcome]:
    views = [memoryview(bytearray(CHUNK)) for _ in numbers]
    return store.read([key(number) for number in numbers], views, deadline_s).wait()


def test_the_store_reads_no_faster(store: SsdStore, clock: Clock) -> None:
    assert read(store, range(8), math.inf) == [OK] * 8
    assert clock.now == pytest.approx(50.8)


def test_what_cannot_be_there_in_time_is_late(store: SsdStore) -> None:
    assert read(store, range(5), 0.35) == [OK] * 3 + [LATE] * 2
    assert store.stats().late_reads == 2
    assert store.stats().healthy, "a limit is no disk that hangs"
    assert read(store, range(5, 7), 0.25) == [OK] * 2


def test_what_it_reads_and_how_long_it_is_at_it_are_counted(store: SsdStore) -> None:
    read(store, range(3), math.inf)
    read(store, range(7, 9), math.inf)
    read(store, range(6), 0.25)
    stats = store.stats()
    assert stats.chunks_read == 3 + 1 + 2
    assert stats.read_busy_s == pytest.approx(0.6)


def test_an_installation_has_one(tmp_path: Path) -> None:
    where = Installation(root=tmp_path / "s", bytes_limit=2**20, read_bytes_per_s=CHUNK)
    where = Installation.from_builtins(where.to_builtins())
    slow = open_store(where, "f", CHUNK)
    slow.put([key(1)], [memoryview(bytes(CHUNK))], SessionKey("acme/a"))
    assert read(slow, range(1, 2), 0.5) == [LATE]
    slow.close()
