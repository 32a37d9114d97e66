"""What the SSD store takes: bounded by a limit and by a floor of free bytes, given back when it is
of no use, written about once, and written only as far as a day's budget goes."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.endurance.budget import DAY_S
from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.ssd.extent import PAGE_BYTES, page_bytes
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import SessionKey
from tests.contract.store_faults import disk_bytes
from tests.small_disk import CHUNK, Bench, key

STORED, REFUSED = WriteOutcome.STORED, WriteOutcome.REFUSED


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "root")
    yield bench
    bench.disk.broken.clear()
    if bench.store is not None:
        bench.store.close()


# --- a floor of free bytes -----------------------------------------------------------------------


def test_free_bytes_stay_above_the_floor(bench: Bench) -> None:
    bench.disk.capacity, floor = 150 * CHUNK, 50 * CHUNK
    store = bench.open(bytes_limit=2**30, free_floor=floor, segment_bytes=16 * CHUNK)
    for number in range(0, 300, 3):
        assert bench.put(number, number + 1, number + 2) == [STORED] * 3
    assert bench.disk.lowest >= floor
    assert store.stats().evicted_chunks > 0
    assert store.stats().chunks > 50


def test_the_store_shrinks_when_others_take_the_disk_and_grows_again(bench: Bench) -> None:
    bench.disk.capacity, floor = 150 * CHUNK, 50 * CHUNK
    store = bench.open(bytes_limit=2**30, free_floor=floor, segment_bytes=16 * CHUNK)
    bench.put(*range(60))
    before = store.stats().chunks
    bench.disk.others = 40 * CHUNK
    assert bench.put(100) == [STORED]
    assert bench.disk.free_bytes(bench.root) >= floor
    assert 0 < store.stats().chunks < before
    bench.disk.others = 120 * CHUNK
    assert bench.put(101) == [REFUSED]
    assert store.stats().healthy
    bench.disk.others = 0
    assert bench.put(*range(200, 230)) == [STORED] * 30
    assert bench.disk.free_bytes(bench.root) >= floor


# --- what is of no use is given back -------------------------------------------------------------


def test_a_closed_store_holds_no_room_ahead(bench: Bench) -> None:
    bench.open()
    for tenant in range(5):
        bench.put(*range(tenant * 10, tenant * 10 + 3), session=f"t{tenant}/s")
    assert any(path.stat().st_size > used for path, used in bench.journals())
    assert bench.store is not None
    bench.store.close()
    assert len(bench.journals()) == 5
    for path, used in bench.journals():
        assert path.stat().st_size == used
        assert path.stat().st_blocks * 512 <= used


@pytest.mark.parametrize("kind", ["write", "sync", "allocate"])
def test_nor_after_writes_that_failed(bench: Bench, kind: str) -> None:
    store = bench.open()
    for tenant in range(4):
        assert bench.put(tenant, session=f"t{tenant}/s") == [STORED]
        bench.disk.broken = {kind: errno.ENOSPC}
        bench.put(*range(100 + tenant * 20, 120 + tenant * 20), session=f"t{tenant}/s")
        bench.disk.broken = {}
    assert bench.put(50) == [STORED]
    store.close()
    for path, used in bench.journals():
        assert path.stat().st_size == used


def test_a_refused_chunk_does_not_come_back(bench: Bench) -> None:
    """The end of a journal write that failed may be on the medium all the same."""
    store = bench.open()
    assert bench.put(1) == [STORED]
    bench.disk.fails_after_write = ".journal"
    assert bench.put(2) == [REFUSED]
    bench.disk.fails_after_write = None
    assert bench.put(2) == [STORED]
    assert store.delete([key(2)]) == 1
    store = bench.open(kill=True)
    assert not store.contains(key(2))


def test_space_comes_back_with_what_is_deleted_and_compacted(bench: Bench) -> None:
    store = bench.open()
    empty = disk_bytes(bench.root)
    bench.put(*range(60))
    full = disk_bytes(bench.root)
    store.delete([key(number) for number in range(60) if number % 4])
    before = disk_bytes(bench.root)
    given = store.compact()
    assert given >= 0.9 * (before - disk_bytes(bench.root)) > 0.5 * (full - empty)
    assert [store.contains(key(number)) for number in range(60)] == [
        number % 4 == 0 for number in range(60)
    ]
    assert store.compact() == 0
    store.delete([key(number) for number in range(60)])
    assert disk_bytes(bench.root) == empty


# --- many tenants --------------------------------------------------------------------------------


def test_many_tenants_within_a_small_limit(bench: Bench) -> None:
    store = bench.open(bytes_limit=60 * CHUNK)
    for number in range(300):
        tenant = number * 7 % 40
        assert bench.put(number, session=f"t{tenant}/s") == [STORED]
        assert disk_bytes(bench.root) <= 60 * CHUNK
        ahead = sum(path.stat().st_size > used for path, used in bench.journals())
        assert ahead <= 8
    buffers = [memoryview(bytearray(CHUNK)) for _ in range(10)]
    assert store.get([key(n) for n in range(290, 300)], buffers) == [ReadOutcome.OK] * 10
    assert store.stats().chunks > 20


# --- written about once --------------------------------------------------------------------------


def test_what_is_written_is_hardly_more_than_the_chunks(bench: Bench) -> None:
    size = 16 * PAGE_BYTES
    store = bench.open(chunk_bytes=size, bytes_limit=100 * size)
    begun = bench.disk.written
    for number in range(0, 600, 5):
        assert bench.put(*range(number, number + 5), size=size) == [STORED] * 5
    stats = store.stats()
    assert stats.evicted_chunks > 400
    assert stats.bytes_written == 600 * size
    measured = bench.disk.written - begun
    assert 1.0 <= measured / stats.bytes_written <= 1.02
    assert stats.device_bytes_written == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(("every", "copies"), [(2, False), (8, True)])
def test_only_few_chunks_are_copied(bench: Bench, every: int, copies: bool) -> None:
    """Of each eight chunks, four or one stay of use."""
    store = bench.open()
    for number in range(0, 1200, 8):
        bench.put(*range(number, number + 8))
        store.delete([key(n) for n in range(number, number + 8) if n % every])
    stats = store.stats()
    copied = stats.device_bytes_written / stats.bytes_written - 1
    assert (copied > 0.05) == copies
    assert copied < 1 / 4 + 0.05
    assert stats.evicted_chunks > 0


def test_what_is_behind_a_hole_is_not_copied(bench: Bench) -> None:
    """Of the first segment, one chunk of eight is of use."""
    store = bench.open(segment_bytes=8 * CHUNK)
    bench.put(*range(8))
    torn = Stake(SessionKey("t/a"), (key(-1), *map(key, range(7))), 0, rate=9.0)
    whole = Stake(SessionKey("t/b"), (key(7),), 0, rate=9.0)
    told = Expectation((torn, whole), Price(1.0, 0.0), bench.now)
    store.expect(lambda: told)
    number = 100
    while store.contains(key(0)):
        bench.put(number)
        number += 1
    assert store.contains(key(7))
    assert not any(store.contains(key(n)) for n in range(7))
    assert store.stats().evicted_chunks == 0, "the segment was emptied"


# --- a day's budget ------------------------------------------------------------------------------


def test_a_budget_is_spent_to_the_byte_and_no_restart_renews_it(bench: Bench) -> None:
    per_day = 50 * CHUNK
    store = bench.open(per_day)
    assert bench.put(*range(60)) == [STORED] * 50 + [REFUSED] * 10
    assert store.stats().over_budget_chunks == 10
    assert store.budget is not None
    assert store.budget.level < CHUNK
    for _ in range(3):
        store = bench.open(per_day)
        assert bench.put(100) == [REFUSED]
        assert store.stats().over_budget_chunks == 1
    bench.now += DAY_S / 10
    assert bench.put(*range(200, 210)) == [STORED] * 5 + [REFUSED] * 5


def test_a_restart_takes_nothing_from_the_budget(bench: Bench) -> None:
    per_day = 50 * CHUNK
    for number in range(49):
        bench.open(per_day)
        assert bench.put(number) == [STORED]
    bench.open(per_day)
    assert bench.put(60, 61) == [STORED, REFUSED]


def test_a_kill_renews_no_budget_and_costs_little_of_it(bench: Bench) -> None:
    per_day = 160 * CHUNK
    stored = 0
    for number in range(0, 400, 4):
        bench.open(per_day, kill=True)
        stored += bench.put(*range(number, number + 4)).count(STORED)
    assert stored <= 160
    bench.now += DAY_S
    bench.open(per_day, kill=True)
    assert bench.put(*range(1000, 1100)).count(STORED) >= 100 - 10


def test_what_finds_no_room_costs_nothing(bench: Bench) -> None:
    per_day = 160 * CHUNK
    store = bench.open(per_day, bytes_limit=40 * CHUNK)
    outcomes = bench.put(*range(100))
    kept = outcomes.count(STORED)
    assert 20 < kept < 40
    assert store.budget is not None
    assert store.budget.level == pytest.approx(per_day - kept * page_bytes(CHUNK), abs=CHUNK)
    assert store.stats().over_budget_chunks == 0
