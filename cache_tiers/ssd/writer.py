"""Everything that changes what a store holds. One change at a time."""

import errno
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, takewhile

from cache_tiers.ssd.allowance import Allowance, Unlimited
from cache_tiers.ssd.appender import Appender, Packed
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.compaction import Compactor
from cache_tiers.ssd.extent import Extent, page_bytes
from cache_tiers.ssd.fetcher import GONE
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import TENANT_TAG_BYTES, Put
from cache_tiers.ssd.loader import Loader
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.space import Space
from cache_tiers.ssd.tally import Tally
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey, SessionKey, tenant_of

_WORTH_EMPTYING = 0.9
"""A segment of which a smaller share is of use is emptied when the store is compacted."""


class Writer:
    """Thread safe: its methods take turns, ``note_deleted`` and ``note_loss`` excepted, which wait
    for nobody. Methods log and count what the disk refuses, and raise nothing for it."""

    def __init__(
        self,
        space: Space,
        index: Index,
        loader: Loader,
        codec: Codec,
        sealer: Sealer,
        appender: Appender,
        compactor: Compactor,
        tally: Tally,
        allowance: Allowance | Unlimited,
        take: Callable[[], None],
    ) -> None:
        """``take`` makes the root and locks it, after it was lost."""
        self._space = space
        self._index = index
        self._loader = loader
        self._codec = codec
        self._sealer = sealer
        self._appender = appender
        self._compactor = compactor
        self._tally = tally
        self._allowance = allowance
        self._take = take
        self._turn = threading.Lock()
        self._noting = threading.Lock()
        self._deleted: list[Put] = []
        """Forgotten in memory, but not yet in their segments' journals."""
        self._stale = False
        self._closed = False

    def note_deleted(self, puts: Iterable[Put]) -> None:
        """These are forgotten: the next writer writes it down."""
        with self._noting:
            self._deleted += puts

    def note_loss(self) -> None:
        """Files are not what this process left there: the next writer looks anew."""
        self._stale = True

    def put(
        self,
        packed: Callable[[Sequence[ChunkKey]], list[Packed]],
        keys: Sequence[ChunkKey],
        session: SessionKey,
        now: float,
    ) -> tuple[set[ChunkKey], set[ChunkKey]]:
        """Which of ``keys`` were there already, and which have been stored, of ``packed(keys)``."""
        with self._my_turn():
            if self._closed:
                return set(), set()
            ready = self._ready()
            places = self._index.find(keys)
            self.use(places, now)
            present = {key for key, place in zip(keys, places, strict=True) if place}
            keep = {place.segment for place in places if place}
            fresh = [key for key in dict.fromkeys(keys) if key not in present]
            stored = self._store(packed(fresh), session, keep) if ready and fresh else 0
            self.use(self._index.find(fresh[:stored]), now)
            return present, set(fresh[:stored])

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        """Forget chunks, durably: also what an eviction has left to a loss of power does not come
        back. Returns how many were known."""
        with self._my_turn():
            if self._closed:
                return 0
            puts = self._index.forget(keys)
            self.note_deleted(puts)
            self._flush()
            return len(puts)

    def shred(self, session: SessionKey, keep: Sequence[ChunkKey]) -> bool:
        """See ``ChunkStore.shred``; raises OSError."""
        with self._my_turn():
            if self._closed:
                raise OSError(errno.EBADF, "the store is closed")
            seals = [place.seal for place in self._index.find(keep) if place]
            return self._sealer.shred(session, seals)

    def take_evicted_pins(self) -> list[ChunkKey]:
        """Takes no turn."""
        pins = self._space.evicted_pins
        taken = pins[:]
        # Others may be added meanwhile, behind them.
        del pins[: len(taken)]
        return taken

    def flush(self) -> None:
        """Return when everything put is safe from a loss of power."""
        with self._my_turn():
            if not self._closed:
                self._flush()

    def compact(self) -> int:
        """Empty every segment of which a tenth or more is of no use; returns bytes given back.
        Raises OSError."""
        with self._my_turn():
            if self._closed:
                return 0
            before = self._space.measure()
            self._write_deletes()
            self._space.seal_all()
            for segment in list(self._space):
                _, live = self._index.live(segment.id)
                if not live or live < _WORTH_EMPTYING * segment.pages:
                    self._space.empty(segment)
            self._space.seal_all()
            return before - self._space.measure()

    def close(self) -> None:
        """Flush, and give back what was allocated ahead. Nothing changes afterwards. Idempotent."""
        with self._my_turn():
            if self._closed:
                return
            self._flush()
            self._closed = True
            try:
                self._space.seal_all()
                self._loader.checkpoint_if_worth_it(None)
                self._sealer.close()
                self._allowance.close()
            except OSError as error:
                self._failed(error, 0)

    def use(self, places: Iterable[Extent | None], now: float) -> None:
        """Chunks at these places are used now. Takes no turn."""
        for number in {place.segment for place in places if place is not None}:
            segment = self._space.find(number)
            if segment is not None:
                segment.last_used = max(segment.last_used, now)

    def release(self, lost: Sequence[Extent]) -> None:
        """Destroy what was kept to open chunks that are gone. May raise OSError."""
        kept = self._sealer.kept
        nonces = [extent.seal.nonce for extent in lost if extent.seal.nonce in kept]
        if nonces:
            self._sealer.release(nonces)

    # --- inside ------------------------------------------------------------------------------

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        with self._turn:
            try:
                yield
            finally:
                self._space.measure()

    def _store(self, chunks: Sequence[Packed], session: SessionKey, used: Iterable[int]) -> int:
        """Write as many as fit; returns how many, from the first on."""
        keep = {segment for number in used if (segment := self._space.find(number))}
        stored = 0
        try:
            self._space.tidy(keep)
            affordable = self._affordable(chunks)
            self._tally.over_budget_chunks += len(chunks) - affordable
            owner = self._sealer.owner_of(session) if affordable else 0
            self._sealer.sync()
            while stored < affordable:
                some = chunks[stored:affordable]
                count = self._appender.append(tenant_tag(session), owner, some, keep)
                if not count:
                    break
                stored += count
            self._loader.checkpoint_if_worth_it(keep)
        except OSError as error:
            self._failed(error, len(chunks) - stored)
        else:
            if stored:
                self._tally.writes.succeeded()
        self._tally.bytes_written += stored * self._codec.chunk_bytes
        return stored

    def _affordable(self, chunks: Sequence[Packed]) -> int:
        """How many of them, from the first on, today's budget affords."""
        sizes = accumulate(page_bytes(chunk.data.nbytes) for chunk in chunks)
        return sum(1 for _ in takewhile(self._allowance.affords, sizes))

    def _ready(self) -> bool:
        """Bring memory and medium together; whether that worked."""
        try:
            if self._stale:
                self._take()
                self._loader.load(self._deleted)
                self._stale = False
            self._write_deletes()
        except (OSError, StoreUnusable) as error:
            self._failed(error, 0)
            return False
        return True

    def _write_deletes(self) -> None:
        """Make what was forgotten outlive this process."""
        with self._noting:
            pending, self._deleted = self._deleted, []
        try:
            self.release([extent for _, extent in pending])
            for number in {extent.segment for _, extent in pending}:
                segment = self._space.find(number)
                if segment is not None:
                    puts = [put for put in pending if put[1].segment == number]
                    self._space.forget(segment, puts)
        except OSError:
            self.note_deleted(pending)
            raise

    def _flush(self) -> None:
        if not self._ready():
            return
        try:
            self._sealer.sync()
            self._space.sync()
        except OSError as error:
            self._failed(error, 0)

    def _failed(self, error: Exception, chunks: int) -> None:
        if isinstance(error, OSError) and error.errno in GONE:
            self._stale = True
        self._tally.failed_write(error, chunks)


def tenant_tag(session: SessionKey) -> bytes:
    """16 bytes that stand for the session's tenant on the medium."""
    return hashlib.sha256(tenant_of(session).encode()).digest()[:TENANT_TAG_BYTES]
