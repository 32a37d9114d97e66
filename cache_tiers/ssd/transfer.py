"""A session's chunks out of a store into an archive, and into another store.

One thread; memory for one transfer. Methods raise OSError and ArchiveError.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from cache_tiers.hints import Dropped
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.archive import ArchiveReader, ArchiveWriter
from cache_tiers.ssd.extent import page_bytes
from cache_tiers.ssd.fetcher import MERGED_BYTES
from cache_tiers.store import ChunkStore, ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey

_Chunks = list[tuple[ChunkKey, memoryview]]


class NotTaken(Exception):
    """The store did not take all chunks; it holds none of them now."""


def export_chain(store: ChunkStore, chain: Sequence[ChunkKey], archive: ArchiveWriter) -> int:
    """Write the chain and what the store has of it; returns how many chunks that is."""
    found = 0
    room = page_bytes(store.chunk_bytes)
    buffer = aligned(_at_a_time(store) * room)
    views = [buffer[at : at + store.chunk_bytes] for at in range(0, len(buffer), room)]
    for begin in range(0, len(chain), len(views)):
        keys = chain[begin : begin + len(views)]
        outcomes = store.get(keys, views[: len(keys)])
        for key, view, outcome in zip(keys, views, outcomes, strict=False):
            is_there = outcome is ReadOutcome.OK
            archive.add(key, view if is_there else b"")
            found += is_there
    return found


def import_chain(store: ChunkStore, archive: ArchiveReader, session: SessionKey) -> list[ChunkKey]:
    """Put what the archive holds for ``session``, which has nothing in the store, and make it
    durable; returns the chain. Raises NotTaken; whatever it raises, nothing of the archive stays.
    """
    chain: list[ChunkKey] = []
    held: list[ChunkKey] = []
    new: list[ChunkKey] = []
    try:
        for chunks in _batches(archive, _at_a_time(store)):
            chain += [key for key, _ in chunks]
            chunks = [(key, chunk) for key, chunk in chunks if len(chunk)]
            keys = [key for key, _ in chunks]
            outcomes = store.put(keys, [chunk for _, chunk in chunks], session)
            new += [k for k, o in zip(keys, outcomes, strict=True) if o is WriteOutcome.STORED]
            held += keys
            if WriteOutcome.REFUSED in outcomes:
                raise NotTaken(_why(store))
        store.flush()
        if not store.stats().healthy:
            raise NotTaken("the disk failed")
        if not all(store.contains(key) for key in held):
            raise NotTaken("the session is larger than the store")
    except BaseException:
        store.delete(new)
        store.shred(session)
        raise
    return chain


def drop_session(store: ChunkStore, manifests: Manifests, session: SessionKey) -> Dropped:
    """Forget a session and destroy its key, as the engine does when a session is deleted."""
    # Behind a zero in a name is what the engine remembers of a session besides its chain.
    names = [name for name in manifests.sessions() if name.partition("\0")[0] == session]
    held = dict.fromkeys(key for name in names for key in manifests.get(name) or ())
    orphans = dict.fromkeys(key for name in names for key in manifests.drop(name))
    destroyed = store.shred(session, [key for key in held if key not in orphans])
    chunks = store.delete(orphans)
    manifests.persist()
    return Dropped(session, bool(names), chunks, chunks * store.chunk_bytes, destroyed)


def _why(store: ChunkStore) -> str:
    if store.stats().over_budget_chunks:
        return "the daily write budget is spent: see VALET_SSD_WRITES_PER_DAY"
    return "the store took not all of its chunks: its limit or its disk leaves no room"


def _at_a_time(store: ChunkStore) -> int:
    return max(1, MERGED_BYTES // page_bytes(store.chunk_bytes))


def _batches(archive: ArchiveReader, size: int) -> Iterator[_Chunks]:
    chunks = archive.read()
    while batch := list(islice(chunks, size)):
        yield batch
