"""What is where, in memory."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cache_tiers.ssd.journal import Put
from cache_tiers.ssd.segment import Segment
from cache_tiers.types import ChunkKey


@dataclass(frozen=True, slots=True, eq=False)
class Location:
    """Where one chunk is, and the xxh3_128 that its bytes must have."""

    segment: Segment
    slot: int
    digest: bytes


class Index:
    """From key to location. A key is in one place at most, and a segment's ``live`` says what of
    it is indexed. Thread safe; the lock is never held longer than the keys of one call take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[ChunkKey, Location] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._places

    def use(self, keys: Sequence[ChunkKey], now: float) -> list[Location | None]:
        """Where each key is; their segments count as used at ``now``."""
        with self._lock:
            places = [self._places.get(key) for key in keys]
            for place in places:
                if place is not None:
                    place.segment.last_used = max(place.segment.last_used, now)
            return places

    def add(self, segment: Segment, puts: Iterable[Put]) -> None:
        """Of two places for one key the later holds."""
        with self._lock:
            for put in puts:
                self._forget(put.key)
                self._places[put.key] = Location(segment, put.slot, put.digest)
                segment.live[put.slot] = put.key

    def forget(self, keys: Iterable[ChunkKey]) -> list[Location]:
        """Where the chunks were that were held."""
        with self._lock:
            places = [self._forget(key) for key in keys]
            return [place for place in places if place is not None]

    def forget_place(self, key: ChunkKey, place: Location) -> bool:
        """Forget a chunk if that is still where it is; whether it was."""
        with self._lock:
            if self._places.get(key) is not place:
                return False
            self._forget(key)
            return True

    def forget_segment(self, segment: Segment) -> int:
        """Forget all chunks of a segment; returns how many."""
        with self._lock:
            for key in segment.live.values():
                del self._places[key]
            forgotten = len(segment.live)
            segment.live.clear()
            return forgotten

    def _forget(self, key: ChunkKey) -> Location | None:
        place = self._places.pop(key, None)
        if place is not None:
            del place.segment.live[place.slot]
        return place
