"""The room a store takes on the medium: its segments, its neighbours, and the limit over all.

Every write is preceded by ``make_room`` for all it can add, so the limit holds while it runs and
when it fails halfway.
"""

import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from cache_tiers.eviction.policy import Candidate, EvictionPolicy
from cache_tiers.ssd.files import Entry, Files
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import Header, Put
from cache_tiers.ssd.neighbours import LOCK, Neighbour, bytes_beside, folder_bytes, survey
from cache_tiers.ssd.segment import Segment, id_in_name
from cache_tiers.types import ChunkKey

_log = logging.getLogger(__name__)

_MARGIN = 64
"""One part in so many of the limit is left for what others (the session manifest) write into the
folder between two looks at it: one look a segment."""


class Space:
    """Guarded by the store's write lock, ``bytes_used`` and ``evicted_chunks`` excepted. Every
    method may raise OSError; the space is consistent afterwards."""

    def __init__(
        self,
        files: Files,
        policy: EvictionPolicy,
        index: Index,
        root: Path,
        header: Header,
        slots_per_segment: int,
        bytes_limit: int,
    ) -> None:
        self._files = files
        self._policy = policy
        self._index = index
        self._root = root
        self._folder = root / header.fingerprint
        self._header = header
        self._slots_per_segment = slots_per_segment
        self._limit = bytes_limit - bytes_limit // _MARGIN
        self._lock: int | None = None
        self._next_id = 1
        self._segments: dict[int, Segment] = {}
        self._neighbours: list[Neighbour] = []
        self._foreign_bytes = 0
        self._bytes_beside = 0
        self._active: Segment | None = None
        self.bytes_used = 0
        self.evicted_chunks = 0

    def smallest(self, key_bytes: int) -> int:
        """The lowest limit under which there is room for one chunk."""
        segment = self._new_segment().bytes_used_with([ChunkKey(bytes(key_bytes))])
        return -(-(folder_bytes(1) + segment) * _MARGIN // (_MARGIN - 1))

    def load(self, deleted: dict[int, list[int]]) -> None:
        """Lock the root, then read what is on the medium into the index, slots in ``deleted``
        (by segment) left out. Raises BlockingIOError when the root is in use, StoreUnusable for a
        newer format. Files that cannot be read stay, without chunks, and are evicted first."""
        self._files.make_folder(self._root)
        self.unlock()
        self._lock = self._files.lock(self._root / LOCK)
        self._files.make_folder(self._folder)
        seen = survey(self._files, self._root, self._folder.name)
        beside = bytes_beside(self._files, self._folder)
        pairs: dict[int, dict[str, Entry]] = {}
        for entry in self._files.entries(self._folder):
            number = id_in_name(entry.name)
            if number is not None and entry.is_file:
                pairs.setdefault(number, {})[entry.name.rpartition(".")[2]] = entry

        for segment in self._segments.values():
            self._index.forget_segment(segment)
        self._segments.clear()
        self._active = None
        self._neighbours = list(seen.neighbours)
        self._foreign_bytes = seen.foreign_bytes
        self._bytes_beside = beside
        for number in sorted(pairs):
            segment = self._load_segment(number, pairs[number], deleted.get(number, ()))
            self._active = segment if segment.slots < segment.capacity else None
        self._next_id = max([self._next_id - 1, *self._segments]) + 1
        self.measure()

    def unlock(self) -> None:
        """Let another process have the root."""
        if self._lock is not None:
            self._files.close(self._lock)
            self._lock = None

    def measure(self) -> int:
        """Recompute ``bytes_used``."""
        self.bytes_used = (
            folder_bytes(len(self._segments))
            + self._foreign_bytes
            + self._bytes_beside
            + sum(neighbour.bytes for neighbour in self._neighbours)
            + sum(segment.bytes_used for segment in self._segments.values())
        )
        return self.bytes_used

    def make_room(self, grow: int, keep: Collection[Segment]) -> bool:
        """Evict until ``grow`` more bytes fit; False when all but ``keep`` is evicted and they
        still do not. Every round removes something."""
        while self.measure() + grow > self._limit:
            if self._neighbours:
                self._evict_neighbour()
                continue
            victim = self._policy.choose(
                Candidate(segment.id, segment.bytes_used, segment.last_used, len(segment.live))
                for segment in self._segments.values()
                if segment not in keep
            )
            if victim is None:
                return False
            self._evict(self._segments[victim.id])
        return True

    def reserve(
        self, keys: Sequence[ChunkKey], keep: Collection[Segment]
    ) -> tuple[Segment, int] | None:
        """A segment, and how many of ``keys`` (from the first on, at least one) fit into it and
        under the limit when all but ``keep`` may be evicted; None when none does."""
        active = self._active
        if active is not None and active.slots == active.capacity:
            active.sync()
            active = self._active = None
        if active is not None:
            if count := self._fit(active, keys, keep):
                return active, count
            if active in keep:
                return None
            self._evict(active)
        self._bytes_beside = bytes_beside(self._files, self._folder)
        segment = self._new_segment()
        count = self._fit(segment, keys, keep)
        if not count:
            return None
        self._next_id += 1
        self._active = self._segments[segment.id] = segment
        segment.create()
        return segment, count

    def retire(self) -> None:
        """Write no further chunk to the segment being written: the last write failed."""
        active, self._active = self._active, None
        if active is not None:
            active.capacity = active.slots
            if not active.live:
                with contextlib.suppress(OSError):
                    self.remove(active)

    def forget(self, segment_id: int, slots: Sequence[int]) -> None:
        """Make deletions outlive this process. A segment that is left without chunks, or whose
        journal cannot be written, is removed."""
        segment = self._segments.get(segment_id)
        if segment is None:
            return
        if not segment.live:
            self.remove(segment)
            return
        try:
            segment.forget(slots)
        except OSError:
            self.remove(segment)

    def lose(self, segment: Segment) -> bool:
        """Forget the chunks of a segment whose file is gone; False when it was evicted anyway.
        Needs no lock."""
        if self._segments.get(segment.id) is not segment:
            return False
        self._index.forget_segment(segment)
        return True

    def remove(self, segment: Segment) -> None:
        """Forget a segment's chunks and take it off the medium. While that fails it goes on to
        count, and to be the first to be evicted."""
        if self._active is segment:
            self._active = None
        segment.capacity = segment.slots
        self._index.forget_segment(segment)
        segment.remove()
        del self._segments[segment.id]

    def sync(self) -> None:
        """Return when all that was written would survive a loss of power; one segment's failure
        does not keep the others from it."""
        failure: OSError | None = None
        for segment in self._segments.values():
            try:
                segment.sync()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        self._files.sync_folder(self._folder)

    def _new_segment(self) -> Segment:
        header = Header(self._header.fingerprint, self._next_id, self._header.chunk_bytes)
        return Segment.unborn(self._files, self._folder, header, self._slots_per_segment)

    def _load_segment(
        self, number: int, pair: dict[str, Entry], deleted: Collection[int]
    ) -> Segment:
        header = Header(self._header.fingerprint, number, self._header.chunk_bytes)
        segment = Segment.unborn(self._files, self._folder, header, self._slots_per_segment)
        segment.dirty = True
        self._segments[number] = segment
        data, journal = pair.get("segment"), pair.get("journal")
        segment.data_extent = data.bytes if data else 0
        segment.journal_extent = journal.bytes if journal else 0
        puts: list[Put] = []
        if data and journal:
            segment.last_used = segment.stamped = journal.modified_at
            try:
                puts = segment.load()
            except OSError as error:
                _log.warning("A segment of the SSD store cannot be read: %s", error)
        if not puts:
            segment.capacity = segment.slots
        self._index.add(segment, (put for put in puts if put.slot not in deleted))
        return segment

    def _fit(self, segment: Segment, keys: Sequence[ChunkKey], keep: Collection[Segment]) -> int:
        count = min(len(keys), segment.capacity - segment.slots)
        while count and not self.make_room(self._growth(segment, keys[:count]), {*keep, segment}):
            count -= 1
        return count

    def _growth(self, segment: Segment, keys: Sequence[ChunkKey]) -> int:
        size = segment.bytes_used_with(keys)
        if segment.id in self._segments:
            return size - segment.bytes_used
        segments = len(self._segments)
        return size + folder_bytes(segments + 1) - folder_bytes(segments)

    def _evict(self, segment: Segment) -> None:
        self.evicted_chunks += len(segment.live)
        self.remove(segment)

    def _evict_neighbour(self) -> None:
        """The oldest one; what cannot be removed counts as not ours from then on."""
        oldest = self._policy.choose(
            Candidate(i, neighbour.bytes, neighbour.last_used, 0)
            for i, neighbour in enumerate(self._neighbours)
        )
        assert oldest is not None
        neighbour = self._neighbours.pop(oldest.id)
        try:
            neighbour.remove(self._files)
        except OSError as error:
            self._foreign_bytes += neighbour.bytes
            _log.warning("An old folder of the SSD store cannot be removed: %s", error)
