"""Merging the chunks of one read into few transfers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cache_tiers.ssd.extent import PAGE_BYTES, Extent


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring extents of one segment, read at once."""

    segment: int
    page: int
    """The first one's."""
    pages: int
    positions: tuple[int, ...]
    """Where each extent, in the order of their pages, was in the request."""


def merge(places: Sequence[Extent | None], longest: int) -> list[Run]:
    """The transfers that fetch every place that is not None, each of at most ``longest`` bytes or
    of one extent."""
    wanted = sorted(
        (place.segment, place.page, place.pages, position)
        for position, place in enumerate(places)
        if place is not None
    )
    runs: list[Run] = []
    first = 0
    for i, (segment, page, count, _) in enumerate(wanted):
        length = page + count - wanted[first][1]
        after = wanted[i + 1] if i + 1 < len(wanted) else None
        if (
            after is None
            or after[:2] != (segment, page + count)
            or (length + after[2]) * PAGE_BYTES > longest
        ):
            positions = tuple(position for *_, position in wanted[first : i + 1])
            runs.append(Run(segment, wanted[first][1], length, positions))
            first = i + 1
    return runs
