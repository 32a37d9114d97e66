"""The chunk store on an SSD. See ``cache_tiers.store`` for what it promises."""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.eviction.expectation import MakeExpectation
from cache_tiers.eviction.least_worth import LeastWorth
from cache_tiers.eviction.policy import EvictionPolicy
from cache_tiers.ssd.allowance import Allowance, Unlimited
from cache_tiers.ssd.appender import Appender, Packed
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.codec import Codec
from cache_tiers.ssd.compaction import Compactor
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import Extent
from cache_tiers.ssd.fetcher import Fetcher
from cache_tiers.ssd.files import Files, OsFiles, probe_direct
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.io_pool import IoPool
from cache_tiers.ssd.journal import MOST_KEY_BYTES, Put
from cache_tiers.ssd.loader import Loader
from cache_tiers.ssd.neighbours import is_fingerprint
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.reading import Reading
from cache_tiers.ssd.root import Root
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.segment import Segment
from cache_tiers.ssd.space import Space
from cache_tiers.ssd.tally import Tally
from cache_tiers.ssd.writer import Writer
from cache_tiers.store import ReadOutcome, StoreInUse, StoreStats, StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing

_log = logging.getLogger(__name__)

_MOST_CHUNK_BYTES = 2**32
_SHUTDOWN_S = 5.0
"""How long a closing store waits for a disk that does not answer."""


class SsdStore:
    """Thread safe. Writers take turns; readers wait for nobody."""

    @classmethod
    def open(
        cls,
        config: SsdConfig,
        clock: Callable[[], float] = time.time,
        *,
        files: Files | None = None,
        policy: EvictionPolicy | None = None,
        make_sealer: Callable[[], Sealer] = ClearSealer,
        make_allowance: Callable[[], Allowance] | None = None,
        read_only: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> "SsdStore":
        """Open or make the store. ``clock`` gives seconds since the epoch, ``monotonic`` those that
        deadlines are counted in and ``sleep`` waits for. ``make_sealer`` and ``make_allowance`` are
        called once the root is nobody else's; without them chunks are stored in the clear, and as
        many as come.
        ``read_only`` looks at a store as it is now, also at one that another process uses.

        Raises StoreUnusable when the folder cannot be used or another process uses it, and what
        ``make_sealer`` raises.
        """
        if not is_fingerprint(config.fingerprint):
            raise StoreUnusable(f"{config.fingerprint!r} cannot name a folder")
        if not 0 < config.chunk_bytes < _MOST_CHUNK_BYTES or config.segment_bytes <= 0:
            raise StoreUnusable("a chunk has from one byte to 4 GiB, a segment at least one")
        root = Root(config.root, files or OsFiles())
        try:
            if not read_only:
                root.take()
            allowance = make_allowance() if make_allowance and not read_only else Unlimited()
            sealer = make_sealer()
            store = cls(
                config,
                clock,
                root,
                policy or LeastWorth(),
                sealer,
                allowance,
                read_only,
                monotonic,
                sleep,
            )
            store._start()
        except BlockingIOError:
            raise StoreInUse(f"{config.root} is in use by another process or store") from None
        except OSError as error:
            root.release()
            raise StoreUnusable(f"{config.root} cannot be used: {error}") from error
        except BaseException:
            root.release()
            raise
        return store

    def __init__(
        self,
        config: SsdConfig,
        clock: Callable[[], float],
        root: Root,
        policy: EvictionPolicy,
        sealer: Sealer,
        allowance: Allowance | Unlimited,
        read_only: bool,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._root = root
        self._sealer = sealer
        self._read_only = read_only
        self._allowance = allowance
        files = root.files
        self._closed = False
        self._tally = Tally(monotonic)
        self._codec = Codec(config, sealer)
        self._index = Index(sealer)
        self._space = Space(config, files, policy, self._index, self._on_lost, self._copy_forward)
        self._pool = IoPool(config.read_threads, monotonic)
        self._loader = Loader(config, files, self._index, self._space, repair=not read_only)
        self._fetcher = Fetcher(
            self._space,
            self._codec,
            self._pool,
            self,
            self._tally,
            Pace(config.read_bytes_per_s, monotonic, sleep),
            monotonic,
            config.read_deadline_s,
        )
        self._appender = Appender(
            self._space, self._index, self._codec, self._pool, allowance, self._on_replaced
        )
        self._compactor = Compactor(
            self._space, self._index, self._appender, self._codec, allowance
        )
        self._writer = Writer(
            self._space,
            self._index,
            self._loader,
            self._codec,
            sealer,
            self._appender,
            self._compactor,
            self._tally,
            allowance,
            self._retake,
        )

    @property
    def chunk_bytes(self) -> int:
        return self._config.chunk_bytes

    @property
    def budget(self) -> WriteBudget | None:
        return self._allowance.budget

    # --- the contract ------------------------------------------------------------------------

    def contains(self, key: ChunkKey) -> bool:
        return key in self._index and not self._closed and not self._fetcher.hangs()

    def get(self, keys: Sequence[ChunkKey], into: Sequence[memoryview]) -> list[ReadOutcome]:
        return self.read(keys, into, float("inf")).wait()

    def read(
        self, keys: Sequence[ChunkKey], into: Sequence[memoryview], deadline_s: float
    ) -> Reading:
        views = self._checked(keys, into)
        places: list[Extent | None] = [None] * len(keys)
        if not self._closed:
            places = self._index.find(keys)
            self._writer.use(places, self._clock())
        return self._fetcher.read(keys, places, views, deadline_s)

    def put(
        self, keys: Sequence[ChunkKey], chunks: Sequence[memoryview], owner: SessionKey
    ) -> list[WriteOutcome]:
        views = dict(reversed(list(zip(keys, self._checked(keys, chunks), strict=True))))
        if self._unwritable:
            return [WriteOutcome.REFUSED] * len(keys)

        def packed(fresh: Sequence[ChunkKey]) -> list[Packed]:
            if not self._config.compress:
                return [Packed(key, views[key]) for key in fresh]
            work = [self._pool.write(partial(self._codec.pack, views[key])) for key in fresh]
            return [Packed(key, job.result()) for key, job in zip(fresh, work, strict=True)]

        present, new = self._writer.put(packed, keys, owner, self._clock())
        outcomes = []
        for key in keys:
            if key in new:
                new.discard(key)
                present.add(key)
                outcomes.append(WriteOutcome.STORED)
            else:
                outcomes.append(WriteOutcome.PRESENT if key in present else WriteOutcome.REFUSED)
        return outcomes

    def delete(self, keys: Iterable[ChunkKey]) -> int:
        return 0 if self._unwritable else self._writer.delete(keys)

    def shred(self, session: SessionKey, keep: Iterable[ChunkKey] = ()) -> bool:
        if self._unwritable:
            raise OSError(errno.EBADF, "the store is closed, or open for reading alone")
        return self._writer.shred(session, list(keep))

    def rank(self, keys: Sequence[ChunkKey], standing: Standing) -> None:
        self._index.mark(keys, standing)

    def expect(self, expected: MakeExpectation) -> None:
        self._space.worths.tell(expected)

    @property
    def torn(self) -> tuple[SessionKey, ...]:
        return self._space.worths.torn

    def take_evicted_pins(self) -> list[ChunkKey]:
        return self._writer.take_evicted_pins()

    def flush(self) -> None:
        if not self._unwritable:
            self._writer.flush()

    def stats(self) -> StoreStats:
        tally = self._tally
        return StoreStats(
            chunks=len(self._index),
            bytes_used=self._space.bytes_used,
            bytes_limit=self._config.bytes_limit,
            bytes_written=tally.bytes_written,
            bytes_read=tally.bytes_read,
            device_bytes_written=self._appender.bytes_written + self._loader.bytes_written,
            evicted_chunks=self._space.evicted_chunks,
            corrupt_chunks=tally.corrupt_chunks,
            failed_reads=tally.failed_reads,
            failed_writes=tally.failed_writes,
            healthy=tally.writes.healthy and not self._fetcher.hangs(),
            over_budget_chunks=tally.over_budget_chunks,
            late_reads=tally.late_reads,
            chunks_read=tally.chunks_read,
            read_busy_s=tally.read_busy_s,
        )

    def close(self) -> None:
        if self._closed:
            return
        if self._read_only:
            self._sealer.close()
        else:
            self._writer.close()
        self._closed = True
        self._pool.shutdown(_SHUTDOWN_S)
        self._index.close()
        self._root.release()

    # --- beyond the contract -----------------------------------------------------------------

    def compact(self) -> int:
        """Rewrite what is of use in segments that hold much else; returns bytes given back. Raises
        OSError."""
        return 0 if self._unwritable else self._writer.compact()

    # --- what happens below ------------------------------------------------------------------

    def on_segment_gone(self, segment: Segment) -> None:
        """A file that the index names is not there."""
        if self._space.lose(segment):
            self._writer.note_loss()

    def on_corrupt(self, key: ChunkKey, place: Extent) -> None:
        """A chunk is not what had been written."""
        if not self._index.forget_extent(key, place):
            return
        self._writer.note_deleted([(key, place)])
        if self._tally.corrupt():
            _log.warning(
                "A chunk on the SSD was not what had been written (segment %d): it is recomputed. "
                "Further ones are only counted.",
                place.segment,
            )

    def _on_lost(self, lost: Sequence[Extent]) -> None:
        self._writer.release(lost)

    def _on_replaced(self, puts: list[Put]) -> None:
        self._writer.note_deleted(puts)

    def _copy_forward(self, segment: Segment, least: Standing) -> bool:
        return self._compactor.copy_forward(segment, least)

    # --- inside ------------------------------------------------------------------------------

    @property
    def _unwritable(self) -> bool:
        return self._closed or self._read_only

    def _start(self) -> None:
        try:
            self._loader.load(())
            if not self._read_only:
                self._check_room()
                direct = probe_direct(self._root.files, self._space.folder)
                self._fetcher.direct = self._appender.direct = direct
        except BaseException:
            self._pool.shutdown(0)
            self._sealer.close()
            raise

    def _check_room(self) -> None:
        root, limit, needed = self._config.root, self._config.bytes_limit, self._space.smallest()
        if limit < needed:
            raise StoreUnusable(
                f"a limit of {limit} bytes holds no chunk of {self.chunk_bytes} bytes: "
                f"allow at least {needed} bytes, or turn the store off"
            )
        if not self._space.make_room(0) and not self._config.free_floor:
            raise StoreUnusable(
                f"files that are not the store's fill {root} beyond the limit of {limit} "
                "bytes: give the store a folder of its own"
            )

    def _retake(self) -> None:
        """The root was lost: make it ours again."""
        self._root.take()
        self._sealer.revive()

    def _checked(self, keys: Sequence[ChunkKey], buffers: Sequence[memoryview]) -> list[memoryview]:
        views = [buffer.cast("B") for buffer in buffers]
        if len(views) != len(keys) or any(view.nbytes != self.chunk_bytes for view in views):
            raise ValueError(f"one buffer of {self.chunk_bytes} bytes a key")
        if any(not 0 < len(key) <= MOST_KEY_BYTES for key in keys):
            raise ValueError(f"a key has 1 to {MOST_KEY_BYTES} bytes")
        return views
