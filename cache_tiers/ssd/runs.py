"""Merging the chunks of one ``get`` into few reads. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cache_tiers.ssd.index import Location
from cache_tiers.ssd.segment import Segment


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring slots of one segment, read at once."""

    segment: Segment
    slot: int
    """The first one."""
    positions: tuple[int, ...]
    """``positions[i]`` is where slot ``slot + i`` was in the request."""


def merge(places: Sequence[Location | None], longest: int) -> list[Run]:
    """The reads that fetch every place that is not None, each at most ``longest`` chunks."""
    wanted = sorted(
        (place.segment.id, place.slot, position, place.segment)
        for position, place in enumerate(places)
        if place is not None
    )
    runs: list[Run] = []
    first = 0
    for i, (segment_id, slot, _, segment) in enumerate(wanted):
        after = wanted[i + 1][:2] if i + 1 < len(wanted) else None
        if after != (segment_id, slot + 1) or i + 1 - first == longest:
            positions = tuple(position for _, _, position, _ in wanted[first : i + 1])
            runs.append(Run(segment, wanted[first][1], positions))
            first = i + 1
    return runs
