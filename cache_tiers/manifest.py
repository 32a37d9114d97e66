"""Which chunks each session holds, kept over restarts.

In memory a change is immediate; on disk it is there after ``persist``. The file is a journal of
frames (see ``cache_tiers.ssd.frames``): a header, then what changed, a chain that only grew as
its new keys alone. It is written anew when it is much larger than what it says.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from cache_tiers.ssd.files import Files, OsFiles, opened, read_fully, remove_if_there, write_fully
from cache_tiers.ssd.frames import Mark, join, split
from cache_tiers.ssd.health import Health
from cache_tiers.ssd.journal import MOST_KEY_BYTES
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey, SessionKey

_log = logging.getLogger(__name__)

LEFT = "\0branches"
"""Ends the name under which chunks are kept that a session's history has left behind. They can be
dropped with the session, but to be listed there alone is not to be held."""
VERSION = 1
MAGIC = b"VALETMAN"
_MAX_FILE_BYTES = 2**30
_MAX_SESSIONS = 10_000
_COMPACT_FROM_BYTES = 64 * 2**10
_COMPACT_FACTOR = 4
"""How much larger than its content the file may become."""

_Keys = tuple[ChunkKey, ...]


class _Header(msgspec.Struct, frozen=True, tag="v", array_like=True):
    version: int


class _Holds(msgspec.Struct, frozen=True, tag="h", array_like=True):
    """The session's chain is now the first ``kept`` keys of its old one, then ``added``."""

    session: str
    at: float
    kept: int
    added: Sequence[bytes]


class _Gone(msgspec.Struct, frozen=True, tag="g", array_like=True):
    session: str


class _Chain(msgspec.Struct, frozen=True):
    keys: _Keys
    at: float


_records = msgspec.msgpack.Decoder(_Header | _Holds | _Gone)
_encode = msgspec.msgpack.Encoder().encode


class Manifests:
    """Every method but ``persist`` and ``close`` touches memory alone and may be called on the
    scheduler's thread; those two block on I/O. All are thread safe."""

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        max_sessions: int = _MAX_SESSIONS,
        files: Files | None = None,
    ) -> "Manifests":
        """Read what ``path`` says, up to its last whole record; a file that is not a manifest
        is replaced by the next ``persist``. ``clock`` gives seconds since the epoch.

        Raises StoreUnusable for a file that cannot be read or that a newer version wrote.
        """
        manifests = cls(path, clock, max_sessions, files or OsFiles())
        try:
            manifests._load(path)
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be used: {error}") from error
        return manifests

    @classmethod
    def in_memory(
        cls, clock: Callable[[], float] = time.time, *, max_sessions: int = _MAX_SESSIONS
    ) -> "Manifests":
        """For a server without a disk: ``persist`` does nothing."""
        return cls(None, clock, max_sessions, OsFiles())

    def __init__(
        self, path: Path | None, clock: Callable[[], float], max_sessions: int, files: Files
    ) -> None:
        self._path = path
        self._clock = clock
        self._max_sessions = max_sessions
        self._files = files
        self._lock = threading.Lock()
        self._chains: dict[SessionKey, _Chain] = {}
        """Least recently replaced first."""
        self._holders: Counter[ChunkKey] = Counter()
        self._left: Counter[ChunkKey] = Counter()
        """Of the holders, names that end with ``LEFT``."""
        self._dirty: dict[SessionKey, None] = {}
        """Changed since the last ``persist``, in order of the change."""

        self._writing = threading.Lock()
        self._health = Health("The session manifest", "write")
        self._written: dict[SessionKey, _Keys] = {}
        """What the file says."""
        self._mark: Mark | None = None
        """Where the file goes on; None when it has to be written anew."""
        self._compact_at = _COMPACT_FROM_BYTES

    def replace(self, session: SessionKey, keys: Sequence[ChunkKey]) -> None:
        """The session's latest turn holds this chain, first chunk first. Beyond the limit the
        least recently replaced session is dropped."""
        new = tuple(dict.fromkeys(keys))
        with self._lock:
            old = self._chains.pop(session, None)
            kept = _shared(old.keys, new) if old else 0
            if old:
                new = old.keys[:kept] + new[kept:]
                self._release(session, old.keys[kept:])
            self._take(session, new[kept:])
            self._chains[session] = _Chain(new, self._clock())
            self._changed(session)
            while len(self._chains) > self._max_sessions:
                self._drop(next(iter(self._chains)))

    def get(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """The session's chain; None for a session that is not known."""
        with self._lock:
            chain = self._chains.get(session)
            return chain.keys if chain else None

    def last_used(self, session: SessionKey) -> float | None:
        """When its chain was last replaced, in seconds of the clock."""
        with self._lock:
            chain = self._chains.get(session)
            return chain.at if chain else None

    def drop(self, session: SessionKey) -> list[ChunkKey]:
        """Forget a session; returns the keys that no other session holds, in the chain's order."""
        with self._lock:
            return self._drop(session)

    def holders(self, key: ChunkKey) -> int:
        """How many sessions hold the chunk."""
        with self._lock:
            return self._holders.get(key, 0)

    def superseded(self, key: ChunkKey) -> bool:
        """Whether all of its holders have left the chunk behind."""
        with self._lock:
            return 0 < self._holders.get(key, 0) == self._left.get(key, 0)

    def keepers(self, key: ChunkKey) -> int:
        """How many of its holders have not left the chunk behind."""
        with self._lock:
            return self._holders.get(key, 0) - self._left.get(key, 0)

    def sessions(self) -> list[SessionKey]:
        """All sessions, the least recently replaced first."""
        with self._lock:
            return list(self._chains)

    def persist(self) -> None:
        """Write what changed since the last call and wait until it would survive a loss of
        power. A disk that fails is logged once, and the changes are written by a later call."""
        with self._writing:
            with self._lock:
                dirty, self._dirty = self._dirty, {}
                chains = {session: self._chains.get(session) for session in dirty}
            if not dirty or self._path is None:
                return
            try:
                if self._mark is None or self._mark.end > self._compact_at:
                    self._rewrite(self._path)
                else:
                    self._append(self._path, chains, self._mark)
            except OSError as error:
                with self._lock:
                    self._dirty = {**dirty, **self._dirty}
                if isinstance(error, FileNotFoundError):
                    self._mark = None
                self._health.failed(error)
            else:
                self._health.succeeded()

    def close(self) -> None:
        """Persist what is left."""
        self.persist()

    def _changed(self, session: SessionKey) -> None:
        self._dirty.pop(session, None)
        self._dirty[session] = None

    def _drop(self, session: SessionKey) -> list[ChunkKey]:
        chain = self._chains.pop(session, None)
        if chain is None:
            return []
        self._changed(session)
        return self._release(session, chain.keys)

    def _take(self, name: SessionKey, keys: Iterable[ChunkKey]) -> None:
        self._holders.update(keys)
        if name.endswith(LEFT):
            self._left.update(keys)

    def _release(self, name: SessionKey, keys: Iterable[ChunkKey]) -> list[ChunkKey]:
        """Count the keys down; returns those that nobody holds any more."""
        freed = []
        left = name.endswith(LEFT)
        for key in keys:
            if left:
                self._left[key] -= 1
                if not self._left[key]:
                    del self._left[key]
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                freed.append(key)
        return freed

    def _append(self, path: Path, chains: dict[SessionKey, _Chain | None], mark: Mark) -> None:
        data, behind = join((self._delta(s, chain) for s, chain in chains.items()), mark)
        with opened(self._files, path, writable=True) as file:
            write_fully(self._files, file, [memoryview(data)], mark.end)
            self._files.sync(file)
        self._mark = behind
        for session, chain in chains.items():
            if chain is None:
                self._written.pop(session, None)
            else:
                self._written[session] = chain.keys

    def _delta(self, session: SessionKey, chain: _Chain | None) -> bytes:
        if chain is None:
            return _encode(_Gone(session))
        kept = _shared(self._written.get(session, ()), chain.keys)
        return _encode(_Holds(session, chain.at, kept, chain.keys[kept:]))

    def _rewrite(self, path: Path) -> None:
        """Write the whole state beside the file, then put it in its place."""
        with self._lock:
            chains = dict(self._chains)
        bodies = [_encode(_Holds(s, chain.at, 0, chain.keys)) for s, chain in chains.items()]
        data, mark = join([_encode(_Header(VERSION)), *bodies], Mark(len(MAGIC), 0))
        draft = path.with_name(path.name + ".new")
        self._files.make_folder(path.parent)
        remove_if_there(self._files, draft)
        file = self._files.create(draft)
        try:
            write_fully(self._files, file, [memoryview(MAGIC), memoryview(data)], 0)
            self._files.sync(file)
        finally:
            self._files.close(file)
        self._files.replace(draft, path)
        self._files.sync_folder(path.parent)
        self._mark = mark
        self._written = {session: chain.keys for session, chain in chains.items()}
        self._compact_at = max(_COMPACT_FROM_BYTES, _COMPACT_FACTOR * mark.end)

    def _load(self, path: Path) -> None:
        try:
            with opened(self._files, path, writable=False) as file:
                data = self._read(file)
        except FileNotFoundError:
            return
        frames = split(memoryview(data), Mark(len(MAGIC), 0))
        first, mark = next(frames, (b"", Mark(0, 0))) if data.startswith(MAGIC) else (b"", None)
        header = _decode(first)
        if not isinstance(header, _Header) or header.version < VERSION:
            _log.warning("%s is not a session manifest: starting a new one", path)
            return
        if header.version > VERSION:
            raise StoreUnusable(
                f"{path} has format {header.version}, this program reads {VERSION}: "
                "use the newer program, or remove the file"
            )
        for body, behind in frames:
            if not self._apply(_decode(body)):
                break
            mark = behind
        self._mark = mark
        self._written = {session: chain.keys for session, chain in self._chains.items()}
        for session, chain in self._chains.items():
            self._take(session, chain.keys)
        while len(self._chains) > self._max_sessions:
            self._drop(next(iter(self._chains)))

    def _read(self, file: int) -> bytes:
        """The whole file, or nothing of one too large to be a manifest."""
        size = self._files.size(file)
        if size > _MAX_FILE_BYTES:
            return b""
        buffer = bytearray(size)
        whole = read_fully(self._files, file, [memoryview(buffer)], 0)
        return bytes(buffer[:whole])

    def _apply(self, record: object) -> bool:
        """Take over one record; False for one that does not fit what was before it."""
        if isinstance(record, _Gone):
            self._chains.pop(SessionKey(record.session), None)
            return True
        if not isinstance(record, _Holds):
            return False
        session = SessionKey(record.session)
        old = self._chains.get(session)
        before = old.keys if old else ()
        if not 0 <= record.kept <= len(before):
            return False
        if not all(0 < len(key) <= MOST_KEY_BYTES for key in record.added):
            return False
        keys = before[: record.kept] + tuple(ChunkKey(key) for key in record.added)
        if len(set(keys)) != len(keys) or not math.isfinite(record.at):
            return False
        self._chains.pop(session, None)
        self._chains[session] = _Chain(keys, record.at)
        return True


def _decode(body: bytes) -> object:
    try:
        return _records.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _shared(old: _Keys, new: _Keys) -> int:
    """How many keys the two chains have in common from the first on."""
    if new[: len(old)] == old:
        return len(old)
    return next(i for i, key in enumerate(old) if i >= len(new) or key != new[i])
