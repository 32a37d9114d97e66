"""Writing chunks: sealed into staging memory on several threads, in merged, page-aligned writes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial

from cache_tiers.ssd.aligned import BufferPool, is_aligned
from cache_tiers.ssd.allowance import Allowance, Unlimited
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.extent import PAGE_BYTES, Extent, Seal, page_bytes, pages
from cache_tiers.ssd.fetcher import MERGED_BYTES
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.io_pool import IoPool
from cache_tiers.ssd.journal import Put, put_bytes
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.space import Space
from cache_tiers.types import ChunkKey

_BUFFERS = 3


@dataclass(frozen=True, slots=True)
class Packed:
    """A chunk to write: its name and its bytes, compressed or not, not yet sealed."""

    key: ChunkKey
    data: memoryview


class Appender:
    """Guarded by the store's write lock; threads of the pool do the work. Every method may raise
    OSError, and then no chunk of the segment being written has been taken over."""

    def __init__(
        self,
        space: Space,
        index: Index,
        codec: Codec,
        pool: IoPool,
        allowance: Allowance | Unlimited,
        on_replaced: Callable[[list[Put]], None],
    ) -> None:
        """``on_replaced`` is told where chunks still are that are now elsewhere: they were there
        and could not be opened."""
        self._space = space
        self._index = index
        self._codec = codec
        self._pool = pool
        self._allowance = allowance
        self._on_replaced = on_replaced
        self.direct = False
        """Whether the filesystem does direct I/O: set once, before the first write."""
        self._buffers = BufferPool(max(MERGED_BYTES, codec.most_bytes), _BUFFERS)
        self.bytes_written = 0
        """To the medium: chunks, padding and journals."""

    def append(
        self, tenant: bytes, owner: int, chunks: Sequence[Packed], keep: set[Segment]
    ) -> int:
        """Write as many as fit in one segment, from the first on; 0 when there is no room. Today's
        budget affords them all."""
        keys = [chunk.key for chunk in chunks]
        room = self._space.reserve(tenant, keys, [chunk.data.nbytes for chunk in chunks], keep)
        if room is None:
            return 0
        keep.add(room.segment)
        try:
            # Only now: what finds no room costs nothing.
            self._allowance.charge(sum(page_bytes(c.data.nbytes) for c in chunks[: room.count]))
            seals = self._write(room.segment, room.page, owner, chunks[: room.count])
            replaced = self.take_over(room.segment, room.page, chunks[: room.count], seals)
        except OSError:
            self._space.retire(room.segment)
            raise
        if replaced:
            self._on_replaced(replaced)
        return room.count

    def take_over(
        self, segment: Segment, page: int, chunks: Sequence[Packed], seals: Sequence[Seal]
    ) -> list[Put]:
        """Name what has been written from ``page`` on, in the journal and then in the index;
        returns where such chunks were before."""
        records = []
        for chunk, seal in zip(chunks, seals, strict=True):
            extent = Extent(segment.id, page, chunk.data.nbytes, seal)
            records.append((chunk.key, extent))
            page += extent.pages
        segment.record(records)
        self.bytes_written += sum(page_bytes(chunk.data.nbytes) for chunk in chunks)
        self.bytes_written += sum(put_bytes(chunk.key) for chunk in chunks)
        return self._index.add(segment.id, records)

    def _write(
        self, segment: Segment, page: int, owner: int, chunks: Sequence[Packed]
    ) -> list[Seal]:
        writes: list[Future[list[Seal]]] = []
        for batch in batches(chunks):
            work = partial(self._write_batch, segment, page, owner, batch)
            writes.append(self._pool.write(work))
            page += sum(pages(chunk.data.nbytes) for chunk in batch)
        # All of them, also after one has failed: none may still be writing when pages are reused.
        wait(writes)
        return [seal for write in writes for seal in write.result()]

    def _write_batch(
        self, segment: Segment, page: int, owner: int, batch: Sequence[Packed]
    ) -> list[Seal]:
        buffer = self._buffers.get()
        try:
            views: list[memoryview] = []
            seals: list[Seal] = []
            used = 0
            for chunk in batch:
                size = chunk.data.nbytes
                room = buffer[used : used + page_bytes(size)]
                data, seal = self._codec.seal(
                    segment.tenant, owner, chunk.key, chunk.data, room[:size]
                )
                seals.append(seal)
                if size % PAGE_BYTES or (data is chunk.data and not is_aligned(data)):
                    if data is chunk.data:
                        room[:size] = data
                    room[size:] = bytes(room.nbytes - size)
                    data = room
                views.append(data)
                used += room.nbytes
            segment.write(page, views, direct=self.direct)
            return seals
        finally:
            self._buffers.put(buffer)


def batches(chunks: Sequence[Packed]) -> Iterator[Sequence[Packed]]:
    """Neighbours of at most MERGED_BYTES together, or one chunk."""
    first, size = 0, 0
    for i, chunk in enumerate(chunks):
        grown = size + page_bytes(chunk.data.nbytes)
        if i > first and grown > MERGED_BYTES:
            yield chunks[first:i]
            first, grown = i, page_bytes(chunk.data.nbytes)
        size = grown
    if chunks:
        yield chunks[first:]
