"""Merging reads."""

from pathlib import Path

from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.index import Location
from cache_tiers.ssd.journal import Header
from cache_tiers.ssd.runs import merge
from cache_tiers.ssd.segment import Segment

SEGMENTS = [Segment.unborn(OsFiles(), Path("f"), Header("f", i, 10), 99) for i in range(2)]


def at(segment: int, slot: int) -> Location:
    return Location(SEGMENTS[segment], slot, b"")


def runs(*places: Location | None, longest: int = 9) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(r.segment.id, r.slot, r.positions) for r in merge(places, longest)]


def test_neighbours_in_any_order_are_one_run() -> None:
    assert runs(at(0, 5), at(0, 4), None, at(0, 6)) == [(0, 4, (1, 0, 3))]


def test_gaps_segments_and_repeats_part_runs() -> None:
    assert runs(at(0, 1), at(0, 3), at(1, 4), at(0, 3)) == [
        (0, 1, (0,)),
        (0, 3, (1,)),
        (0, 3, (3,)),
        (1, 4, (2,)),
    ]


def test_a_run_has_a_longest() -> None:
    places = [at(0, slot) for slot in range(5)]
    assert [len(run.positions) for run in merge(places, 2)] == [2, 2, 1]


def test_nothing() -> None:
    assert runs() == runs(None) == []
