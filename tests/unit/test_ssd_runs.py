"""Merging reads."""

from cache_tiers.ssd.extent import PAGE_BYTES, Extent, Seal
from cache_tiers.ssd.runs import merge

SEAL = Seal(0, bytes(12), bytes(48), bytes(16))


def at(segment: int, page: int, size: int = PAGE_BYTES) -> Extent:
    return Extent(segment, page, size, SEAL)


def runs(*places: Extent | None, longest: int = 9) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(r.segment, r.page, r.positions) for r in merge(places, longest * PAGE_BYTES)]


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
    assert [len(run[2]) for run in runs(*(at(0, page) for page in range(5)), longest=2)] == [
        2,
        2,
        1,
    ]


def test_an_extent_longer_than_that_is_a_run_of_its_own() -> None:
    places = [at(0, 0), at(0, 1, 5 * PAGE_BYTES), at(0, 6)]
    assert [run.pages for run in merge(places, 2 * PAGE_BYTES)] == [1, 5, 1]


def test_extents_take_whole_pages() -> None:
    assert runs(at(0, 0, 5000), at(0, 2, 1), at(0, 3)) == [(0, 0, (0, 1, 2))]


def test_nothing() -> None:
    assert runs() == runs(None) == []
