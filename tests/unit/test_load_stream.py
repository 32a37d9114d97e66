"""The load stream: windows, runs, failures."""

import pytest

from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.load_stream import LoadItem, LoadStream


def key(n: int) -> ChunkKey:
    return ChunkKey(bytes([n]))


def stream(count: int, patience_s: float = 5.0) -> LoadStream:
    items = [LoadItem(key(i), 0, i, (100 + i,)) for i in range(count)]
    return LoadStream(items, now=0.0, patience_s=patience_s)


def test_reads_in_prefix_order_and_no_more_than_asked() -> None:
    load = stream(5)
    assert load.to_read(2) == [key(0), key(1)]
    load.on_reading([key(0), key(1)])
    assert load.to_read(2) == [key(2), key(3)]
    assert load.to_read(0) == []
    assert load.in_dram() == 2


def test_copies_contiguous_runs_only() -> None:
    load = stream(4)
    load.on_ready([key(0), key(2), key(3)], now=0.0)
    assert [item.key for item in load.take_run()] == [key(0)]
    assert [item.key for item in load.take_run()] == [key(2), key(3)]
    assert load.take_run() == []


def test_no_more_is_copied_than_is_allowed() -> None:
    load = stream(4)
    load.on_ready([key(0), key(1), key(2)], now=0.0)
    assert load.take_run(0) == []
    assert [item.key for item in load.take_run(2)] == [key(0), key(1)]
    assert [item.key for item in load.take_run(2)] == [key(2)]


def test_runs_do_not_cross_groups() -> None:
    items = [LoadItem(key(0), 0, 0, (1,)), LoadItem(key(1), 1, 1, (1,))]
    load = LoadStream(items, now=0.0, patience_s=1.0)
    load.on_ready([key(0), key(1)], now=0.0)
    assert len(load.take_run()) == 1
    assert len(load.take_run()) == 1


def test_ends_when_all_is_copied() -> None:
    load = stream(2)
    load.on_ready([key(0), key(1)], now=0.0)
    run = load.take_run()
    assert not load.ended
    load.on_copied([item.key for item in run], now=0.0)
    assert load.ended
    assert load.failure is None
    assert load.lost() == ()


def test_a_failed_read_ends_the_stream_there() -> None:
    load = stream(4)
    load.on_reading([key(0), key(1), key(2)])
    load.on_ready([key(0), key(2)], now=0.0)
    load.on_failed(key(1), MissReason.CORRUPT_CHUNK)
    assert load.to_read(9) == []
    assert not load.wants(key(1))
    run = load.take_run()
    assert [item.key for item in run] == [key(0)]
    assert load.pinned_leftovers() == [key(2)]
    load.on_copied([key(0)], now=0.0)
    assert load.ended
    assert load.failure is MissReason.CORRUPT_CHUNK
    assert [item.block_ids for item in load.lost()] == [(101,), (102,), (103,)]


def test_waits_for_a_running_copy_before_it_ends() -> None:
    load = stream(2)
    load.on_ready([key(1)], now=0.0)
    load.take_run()
    load.on_failed(key(0), MissReason.IO_TIMEOUT)
    assert not load.ended
    load.on_copied([key(1)], now=0.0)
    assert load.ended
    assert len(load.lost()) == 2


def test_gives_up_without_progress_and_not_before() -> None:
    load = stream(2, patience_s=5.0)
    load.on_reading([key(0), key(1)])
    load.check_patience(5.0)
    assert load.failure is None
    load.on_ready([key(0)], now=4.0)
    load.on_copied([item.key for item in load.take_run()], now=4.5)
    load.check_patience(9.0)
    assert load.failure is None
    load.check_patience(9.6)
    assert load.failure is MissReason.IO_TIMEOUT
    assert load.failed_at == 1
    assert load.ended


def test_an_impossible_report_is_a_bug() -> None:
    load = stream(1)
    with pytest.raises(ValueError, match="WAITING"):
        load.on_copied([key(0)], now=0.0)
    with pytest.raises(ValueError, match="twice"):
        LoadStream([load.items[0], load.items[0]], now=0.0, patience_s=1.0)


def test_a_cut_leaves_what_is_at_hand() -> None:
    load = stream(5)
    load.on_reading([key(0), key(1), key(2), key(3)])
    load.on_ready([key(0), key(1), key(3)], now=0.0)
    assert load.at_hand == 2
    load.cut(MissReason.RECOMPUTE_CHEAPER)
    assert load.to_read(9) == []
    assert not load.wants(key(2))
    run = load.take_run()
    assert [item.key for item in run] == [key(0), key(1)]
    load.on_copied([key(0), key(1)], now=0.0)
    assert load.ended
    assert load.failure is MissReason.RECOMPUTE_CHEAPER
    assert [item.key for item in load.lost()] == [key(2), key(3), key(4)]
    assert load.pinned_leftovers() == [key(3)]


def test_a_cut_may_keep_more_than_is_at_hand() -> None:
    load = stream(5)
    load.on_ready([key(0)], now=0.0)
    load.cut(MissReason.RECOMPUTE_CHEAPER, keep=3)
    assert load.to_read(9) == [key(1), key(2)]


def test_a_cut_of_what_is_all_there_changes_nothing() -> None:
    load = stream(2)
    load.on_ready([key(0), key(1)], now=0.0)
    load.cut(MissReason.RECOMPUTE_CHEAPER)
    assert load.failure is None
    assert load.at_hand == 2


def test_it_counts_what_is_on_its_way() -> None:
    load = stream(3)
    load.on_reading([key(0), key(1)])
    assert load.reading == 2
    load.on_ready([key(0)], now=0.0)
    assert load.reading == 1
