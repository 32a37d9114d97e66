"""Copying the few live chunks of a segment elsewhere, so that the segment can go.

The bytes are copied as they are stored: nothing is opened, no key is needed, and a chunk keeps the
seal it had.
"""

from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.allowance import Allowance, Unlimited
from cache_tiers.ssd.appender import Appender, Packed
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.extent import PAGE_BYTES, Extent
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import Put
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.space import Space
from cache_tiers.types import ChunkKey, Standing


class Compactor:
    """Guarded by the store's write lock."""

    def __init__(
        self,
        space: Space,
        index: Index,
        appender: Appender,
        codec: Codec,
        allowance: Allowance | Unlimited,
    ) -> None:
        self._space = space
        self._index = index
        self._appender = appender
        self._codec = codec
        self._allowance = allowance

    def copy_forward(self, segment: Segment, least: Standing) -> bool:
        """Copy what is of use and stands at least so, what is pinned first, as far as there is room
        and budget for it; whether that is all. May raise OSError; what was copied by then stays
        copied."""
        copied, whole = [], True
        for key, extent in self._worth_copying(segment, least):
            buffer = self._read(segment, extent) if self._codec.can_open(extent.seal) else None
            if buffer is not None:
                whole = self._write(segment.tenant, key, extent, buffer)
                if not whole:
                    break
                copied.append((key, extent))
        if copied:
            # The copies must be safe before the originals go. Named in both places, a chunk that
            # is deleted in one would come back from the other.
            self._space.sync()
            self._space.forget(segment, copied)
        return whole

    def _worth_copying(self, segment: Segment, least: Standing) -> list[Put]:
        standings = self._index.standings(segment.id)
        stranded = self._space.worths.stranded_chunks(segment.id)
        ordinary = {False: Standing.ORDINARY, True: Standing.SUPERSEDED}
        known = [
            (standings.get(put[0], ordinary[put[0] in stranded]), put)
            for put in self._index.of_segment(segment.id)
        ]
        known.sort(key=lambda entry: -entry[0])
        return [put for standing, put in known if standing >= least]

    def _read(self, source: Segment, extent: Extent) -> memoryview | None:
        """One chunk: few are copied, and one in memory at a time bounds it. None when it cannot be
        read: it is lost, and must not keep its segment from being evicted."""
        if not 0 < extent.length <= self._codec.most_bytes:
            return None
        buffer = aligned(extent.pages * PAGE_BYTES)
        try:
            whole = source.read(extent.page, [buffer], direct=False) >= extent.length
        except OSError:
            return None
        return buffer if whole else None

    def _write(self, tenant: bytes, key: ChunkKey, extent: Extent, buffer: memoryview) -> bool:
        """Whether there was room and budget."""
        if not self._allowance.affords(buffer.nbytes):
            return False
        room = self._space.reserve(tenant, [key], [extent.length], ())
        if room is None:
            return False
        try:
            self._allowance.charge(buffer.nbytes)
            room.segment.write(room.page, [buffer], direct=False)
            packed = Packed(key, buffer[: extent.length])
            self._appender.take_over(room.segment, room.page, [packed], [extent.seal])
        except OSError:
            self._space.retire(room.segment)
            raise
        return True
