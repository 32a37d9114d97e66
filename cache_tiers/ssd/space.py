"""The room a store takes on the medium: its segments, its neighbours, and the limits over all.

Every write is preceded by ``make_room`` for all it can add, so the limit holds while it runs and
when it fails halfway.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from cache_tiers.eviction.policy import Candidate, Choice, EvictionPolicy
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import PAGE_BYTES, Extent, pages
from cache_tiers.ssd.files import Files
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import MOST_KEY_BYTES, TENANT_TAG_BYTES, Header, Put
from cache_tiers.ssd.neighbours import Neighbours, bytes_beside, folder_bytes
from cache_tiers.ssd.segment import MOST_SEGMENTS, Segment
from cache_tiers.ssd.worths import Worths
from cache_tiers.types import ChunkKey, Standing

_MARGIN = 64
"""One part in so many of the limit is left for what others (the session manifest, the keyring)
write into the folder between two looks at it: one look a segment."""
_MOST_STREAMS = 8
"""Tenants that are written for at once; beyond it the one longest unused ends its segment."""

OnLost = Callable[[Sequence[Extent]], None]
"""Told of chunks that have been forgotten with their segment."""
CopyForward = Callable[[Segment, Standing], bool]
"""Writes elsewhere what is of use in a segment and stands at least so, as far as there is room;
whether that is all of it. May raise OSError."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Pages of a segment, for the first ``count`` of the chunks asked for."""

    segment: Segment
    page: int
    count: int


class Space:
    """Guarded by the store's write lock, ``bytes_used`` and ``evicted_chunks`` excepted. Every
    method may raise OSError; the space is consistent afterwards."""

    def __init__(
        self,
        config: SsdConfig,
        files: Files,
        policy: EvictionPolicy,
        index: Index,
        on_lost: OnLost,
        copy_forward: CopyForward,
    ) -> None:
        self._config = config
        self._files = files
        self._policy = policy
        self._index = index
        self._on_lost = on_lost
        self._copy_forward = copy_forward
        self.worths = Worths(index)
        self.folder = config.root / config.fingerprint
        hard = config.bytes_limit - config.bytes_limit // _MARGIN
        self._copy_reserve = min(config.segment_pages * PAGE_BYTES // 4, hard // 32)
        self._limit = hard
        self._copying = False
        self._neighbours = Neighbours(files, config.root, self.folder)
        self._next_id = 1
        self._segments: dict[int, Segment] = {}
        self._streams: dict[bytes, Segment] = {}
        """The segment being written for each tenant, the longest unused first."""
        self._bytes_beside = 0
        self.bytes_used = 0
        self.evicted_chunks = 0
        self.evicted_pins: list[ChunkKey] = []
        """Pinned chunks that had to go; whoever reads them empties the list."""

    # --- what is there -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments.values())

    def __len__(self) -> int:
        return len(self._segments)

    def find(self, segment_id: int) -> Segment | None:
        """Needs no lock."""
        return self._segments.get(segment_id)

    def smallest(self) -> int:
        """The lowest limit under which there is room for one chunk."""
        segment = self._unborn(bytes(TENANT_TAG_BYTES))
        key = ChunkKey(bytes(MOST_KEY_BYTES))
        size = folder_bytes(1) + segment.growth(pages(self._config.chunk_bytes), [key], 0)
        return -(-size * _MARGIN * 32 // ((_MARGIN - 1) * 31)) + PAGE_BYTES

    def adopt(self, segments: Sequence[Segment], above: int) -> None:
        """Take over what was found on the medium. The latest of each tenant's goes on to be
        written. New ones are numbered ``above`` what was ever known."""
        self._segments = {segment.id: segment for segment in segments}
        self._streams = {}
        # The latest alone, full or not: of two places for a key the later segment's holds.
        for segment in sorted(segments, key=lambda segment: segment.id):
            if segment.capacity:
                self._streams[segment.tenant] = segment
        for segment in segments:
            if self._streams.get(segment.tenant) is not segment:
                segment.capacity = segment.pages
        while len(self._streams) > _MOST_STREAMS:
            tenant = next(iter(self._streams))
            self._streams.pop(tenant).capacity = 0
        self._next_id = max([self._next_id - 1, above, *self._segments]) + 1
        self.worths.reset()
        self._neighbours.survey()
        self.look_beside()
        self.measure()

    def look_beside(self) -> None:
        """Measure what others wrote into the root and into the store's own folder."""
        self._bytes_beside = bytes_beside(self._files, self.folder)
        self._neighbours.look()

    def measure(self) -> int:
        """Recompute ``bytes_used``."""
        self.bytes_used = (
            folder_bytes(len(self._segments))
            + self._neighbours.bytes
            + self._bytes_beside
            + sum(segment.bytes_used for segment in self._segments.values())
        )
        return self.bytes_used

    # --- making room -------------------------------------------------------------------------

    def fits(self, grow: int) -> bool:
        """Whether ``grow`` more bytes fit as things are."""
        limit = self._limit if self._copying else self._limit - self._copy_reserve
        if self.measure() + grow > limit:
            return False
        floor = self._config.free_floor
        return not floor or self._files.free_bytes(self._config.root) - grow >= floor

    def make_room(self, grow: int, keep: Collection[Segment] = ()) -> bool:
        """Evict until ``grow`` more bytes fit under the limit and above the floor of free bytes;
        False when all but ``keep`` is evicted and they still do not. Every round removes or seals
        something."""
        while not self.fits(grow):
            if self._copying:
                return False
            if self._neighbours:
                self._neighbours.evict(self._policy)
                continue
            if self._end_idle(keep):
                continue
            choice = self._choose(keep)
            if choice is None:
                return False
            self._evict(self._segments[choice.candidate.id])
        return True

    def tidy(self, keep: Collection[Segment]) -> None:
        """Before a write: while there is no room for a whole segment, empty what the policy finds
        worth emptying; where chunks are pinned, they alone are copied. What is not copied in time
        is evicted when the room is needed."""
        while not self.fits(self._config.segment_pages * PAGE_BYTES):
            choice = self._choose({*keep, *self._streams.values()})
            if choice is None or not choice.copy_forward:
                return
            segment = self._segments[choice.candidate.id]
            with contextlib.suppress(OSError):
                if not choice.candidate.pinned_bytes:
                    if self.empty(segment):
                        continue
                elif self._copy(segment, Standing.PINNED):
                    self._evict(segment)
                    continue
            return

    def reserve(
        self,
        tenant: bytes,
        keys: Sequence[ChunkKey],
        sizes: Sequence[int],
        keep: Collection[Segment],
    ) -> Reserved | None:
        """Pages for as many chunks of ``sizes`` bytes (from the first on, at least one) as fit into
        one segment and under the limit when all but ``keep`` may be evicted; None when none does.
        """
        segment = self._stream(tenant, pages(sizes[0]), keep)
        if segment is None:
            return None
        count, used = 0, 0
        for size in sizes:
            if segment.pages + used + pages(size) > segment.capacity:
                break
            count, used = count + 1, used + pages(size)
        step = self._config.step_bytes
        while count and not self.make_room(
            segment.growth(used, keys[:count], step), {*keep, segment}
        ):
            if step:
                step = 0
                continue
            count, used = count - 1, used - pages(sizes[count - 1])
        if not count:
            if not segment.chunks:
                self.remove(segment)
            return None
        return Reserved(segment, segment.allocate(used, step), count)

    def empty(self, segment: Segment) -> bool:
        """Write elsewhere what is of use in a segment that is no stream, as far as the room kept
        for it goes; when that is all of it, the segment is removed. Whether it was."""
        whole = self._copy(segment, Standing.ORDINARY)
        if whole:
            self.remove(segment)
        return whole

    # --- segments end ------------------------------------------------------------------------

    def forget(self, segment: Segment, puts: Sequence[Put]) -> None:
        """Write down that chunks of a segment are forgotten. One that is left without chunks, or
        whose journal cannot be written, is removed."""
        self.worths.left(segment.id)
        if self._index.live(segment.id)[0]:
            with contextlib.suppress(OSError):
                segment.forget(puts)
                return
        self.remove(segment)

    def retire(self, segment: Segment) -> None:
        """Write no further chunk to the segment: the last write failed."""
        segment.capacity = segment.pages
        if self._streams.get(segment.tenant) is segment:
            del self._streams[segment.tenant]
        with contextlib.suppress(OSError):
            if segment.chunks:
                segment.seal()
            else:
                self.remove(segment)

    def lose(self, segment: Segment) -> bool:
        """Forget the chunks of a segment whose file is gone; False when it was evicted anyway.
        Needs no lock."""
        if self._segments.get(segment.id) is not segment:
            return False
        self._index.forget_segment(segment.id)
        return True

    def remove(self, segment: Segment) -> None:
        """Forget a segment's chunks and take it off the medium, if it is there still. While that
        fails it goes on to count, and to be the first to be evicted."""
        if self._segments.get(segment.id) is not segment:
            return
        if self._streams.get(segment.tenant) is segment:
            del self._streams[segment.tenant]
        segment.capacity = 0
        lost = self._index.forget_segment(segment.id)
        self.worths.left(segment.id)
        segment.remove()
        del self._segments[segment.id]
        self._on_lost(lost)

    def seal_all(self) -> None:
        """End every stream: what was allocated ahead is given back."""
        for tenant in list(self._streams):
            self._streams.pop(tenant).seal()
        for segment in self._segments.values():
            if segment.slack:
                segment.seal()

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
        self._files.sync_folder(self.folder)

    # --- inside ------------------------------------------------------------------------------

    def _stream(self, tenant: bytes, least: int, keep: Collection[Segment]) -> Segment | None:
        """The tenant's segment, with room for ``least`` pages; a new one if need be, None when
        there is no room for it."""
        segment = self._streams.pop(tenant, None)
        if segment is not None:
            if segment.pages + least <= segment.capacity:
                self._streams[tenant] = segment
                return segment
            segment.seal()
        while len(self._streams) >= _MOST_STREAMS:
            self._streams.pop(next(iter(self._streams))).seal()
        self.look_beside()
        segment = self._unborn(tenant)
        if segment.id > MOST_SEGMENTS:
            return None
        folder = folder_bytes(len(self._segments) + 1) - folder_bytes(len(self._segments))
        if not self.make_room(folder + segment.growth(0, (), 0), keep):
            return None
        self._next_id += 1
        self._streams[tenant] = self._segments[segment.id] = segment
        try:
            segment.create()
        except OSError:
            self.retire(segment)
            raise
        return segment

    def _unborn(self, tenant: bytes) -> Segment:
        header = Header(self._config.fingerprint, self._next_id, self._config.chunk_bytes, tenant)
        return Segment.unborn(self._files, self.folder, header, self._config.segment_pages)

    def _end_idle(self, keep: Collection[Segment]) -> bool:
        """Seal one that has something to give back: the stream longest unused first."""
        for segment in [*self._streams.values(), *self._segments.values()]:
            if segment not in keep and segment.slack:
                if self._streams.get(segment.tenant) is segment:
                    del self._streams[segment.tenant]
                segment.seal()
                return True
        return False

    def _copy(self, segment: Segment, least: Standing) -> bool:
        self._copying = True
        try:
            return self._copy_forward(segment, least)
        finally:
            self._copying = False

    def _choose(self, keep: Collection[Segment]) -> Choice | None:
        """What goes first, of all but ``keep``."""
        self.worths.settle()
        return self._policy.choose(
            self._candidate(segment) for segment in self._segments.values() if segment not in keep
        )

    def _candidate(self, segment: Segment) -> Candidate:
        chunks, live = self._index.live(segment.id)
        superseded = self._index.pages_of(segment.id, Standing.SUPERSEDED)
        size = live / max(1, chunks)
        needed = chunks - round(superseded / max(1.0, size))
        stranded = round(self.worths.stranded(segment.id) * size)
        return Candidate(
            segment.id,
            segment.bytes_used,
            segment.last_used,
            chunks,
            live * PAGE_BYTES,
            min(live, superseded + stranded) * PAGE_BYTES,
            self._index.pages_of(segment.id, Standing.PINNED) * PAGE_BYTES,
            self.worths.of(segment.id, needed, segment.last_used),
        )

    def _evict(self, segment: Segment) -> None:
        standings = self._index.standings(segment.id)
        pinned = [key for key, standing in standings.items() if standing is Standing.PINNED]
        self.evicted_pins += pinned
        self.evicted_chunks += self._index.live(segment.id)[0]
        self.remove(segment)
