"""Room: segments that are emptied, the latest that goes on, a budget and a limit for everything."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache_tiers.endurance.budget import DAY_S, WriteBudget
from cache_tiers.ssd.allowance import Allowance
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import disk_bytes, open_below

CHUNK = 4096
ONE = memoryview(b"x" * CHUNK)
STORED = WriteOutcome.STORED


class QuickFiles(OsFiles):
    """Nothing here is about losses of power."""

    def sync(self, file: int) -> None:
        return


class Bench:
    """Stores on one root, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1e9
        self.store: SsdStore | None = None

    def open(self, pages: int = 1024, *, encrypted: bool = True, **more: Any) -> SsdStore:
        if self.store is not None:
            self.store.close()
        config = SsdConfig(
            root=self.root, fingerprint="f", chunk_bytes=CHUNK, bytes_limit=pages * CHUNK
        )
        files = QuickFiles()

        def sealer() -> EncryptedSealer:
            return EncryptedSealer(Keyring.open(self.root / "keys", bytes(32), files))

        if encrypted:
            more["make_sealer"] = sealer
        self.store = SsdStore.open(config, lambda: self.now, files=files, **more)
        self.segment = config.segment_pages
        return self.store


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "root")
    yield bench
    if bench.store is not None:
        bench.store.close()


def keys(name: str, count: int) -> list[ChunkKey]:
    return [ChunkKey(f"{name}.{i}".encode()) for i in range(count)]


def put(store: SsdStore, some: list[ChunkKey], session: str) -> list[WriteOutcome]:
    return store.put(some, [ONE] * len(some), SessionKey(session))


@pytest.mark.parametrize("pages", range(200, 400, 10))
def test_emptying_segments_while_others_begin(bench: Bench, pages: int) -> None:
    """Two tenants in turns; of each segment an eighth stays of use."""
    store = bench.open(pages, encrypted=False)
    for number in range(40):
        some = keys(str(number), bench.segment)
        assert put(store, some, f"tenant{number % 2}/s") == [STORED] * len(some)
        store.delete(some[bench.segment // 8 :])
        assert all(store.contains(key) for key in some[: bench.segment // 8])
        assert disk_bytes(bench.root) <= pages * CHUNK
    assert store.stats().failed_writes == 0
    assert store.stats().healthy


def test_what_is_put_anew_outlives_what_was_shredded_in_a_later_segment(bench: Bench) -> None:
    store = bench.open()
    put(store, keys("first", 10), "t/a")
    store = bench.open()
    store.compact()
    second = keys("second", bench.segment)
    put(store, second, "t/b")
    store.shred(SessionKey("t/b"))
    store = bench.open()
    assert put(store, second[:5], "t/c") == [STORED] * 5
    for _ in range(2):
        store = bench.open()
        assert all(store.contains(key) for key in second[:5])
        assert not store.contains(second[5])


def test_the_budget_holds_for_copies_too(bench: Bench) -> None:
    budget = WriteBudget(1500 * CHUNK, lambda: bench.now)
    store = bench.open(
        1000, make_allowance=lambda: Allowance(bench.root / "budget", QuickFiles(), budget)
    )
    before, granted = 0, 1500 * CHUNK
    for number in range(60):
        some = keys(str(number), bench.segment)
        put(store, some, "t/s")
        store.delete(some[bench.segment // 6 :])
        written = store.stats().device_bytes_written
        # Journals are not charged: some 200 bytes a chunk.
        assert (written - before) * CHUNK / (CHUNK + 200) <= granted
        before, granted = written, budget.level
        bench.now += DAY_S / 40
        granted = budget.level
    assert store.stats().over_budget_chunks > 0


def test_the_keyring_counts(bench: Bench) -> None:
    store = bench.open(1024)
    for number in range(6000):
        put(store, keys(str(number), 1), f"t/s{number}")
        if number % 200 == 0:
            assert disk_bytes(bench.root) <= 1024 * CHUNK
    assert (bench.root / "keys").stat().st_size > 1024 * CHUNK // 8


def test_a_close_beside_writers(bench: Bench) -> None:
    store = bench.open()
    errors: list[BaseException] = []
    begun = threading.Barrier(4)

    def write(number: int) -> None:
        try:
            begun.wait(10)
            for i in range(200):
                put(store, keys(f"{number}.{i}", 2), "t/s")
                store.delete(keys(f"{number}.{i}", 1))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    store.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not errors
    assert put(store, keys("late", 1), "t/s") == [WriteOutcome.REFUSED]


def test_looking_leaves_nothing_open(bench: Bench) -> None:
    put(bench.open(), keys("a", 3), "t/s")
    bench.open(read_only=True)
    before = open_below(bench.root)
    for _ in range(5):
        assert bench.open(read_only=True).contains(keys("a", 1)[0])
    assert open_below(bench.root) == before
