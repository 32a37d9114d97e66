"""The only door to the disk, small enough to put a faulty one in its place.

Every method may raise OSError and nothing else. A file is named by its descriptor. Nothing here
follows a symbolic link at the last path component; files are made 0600 and folders 0700.
"""

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cache_tiers.ssd.aligned import aligned
from cache_tiers.ssd.extent import PAGE_BYTES

_BUFFERS_PER_CALL = 512
"""Linux takes at most 1024 buffers in one preadv or pwritev."""
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_LATEST_S = 2.0**33
"""The year 2242."""
PROBE = ".direct-io-probe"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    is_file: bool
    is_folder: bool
    bytes: int
    """Size as ``stat`` has it."""
    modified_at: float
    """Seconds since the epoch."""
    disk_bytes: int
    """What the medium gives it, room allocated ahead included."""


class Files(Protocol):
    """Thread safe. Offsets and sizes in bytes."""

    def make_folder(self, path: Path) -> None:
        """Make ``path`` and its parents if need be, and make ``path`` private to its owner;
        PermissionError for a folder such as /tmp, which must not be made private."""
        ...

    def entries(self, path: Path) -> list[Entry]: ...

    def lock(self, path: Path) -> int:
        """Open ``path`` (made if need be) and lock it against every other opener.

        Raises BlockingIOError when it is locked already. Closing the descriptor unlocks.
        """
        ...

    def create(self, path: Path) -> int:
        """Open a new file for reading and writing; FileExistsError when there is one."""
        ...

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        """Open a file. ``direct``: past the page cache, so that every buffer, size and offset must
        be whole pages; OSError (EINVAL) where the filesystem has no such way: see
        ``probe_direct``."""
        ...

    def size(self, file: int) -> int: ...

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        """Bytes read, which may be fewer than asked for; 0 only at the end of the file."""
        ...

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        """Bytes written, which may be fewer than given."""
        ...

    def truncate(self, file: int, size: int) -> None: ...

    def allocate(self, file: int, size: int) -> None:
        """Make the file at least ``size`` bytes long, with room on the medium for all of them; what
        is new reads as zeros. Where the filesystem cannot promise the room, only its size grows.
        After a failure the file may have grown a part of the way."""
        ...

    def sync(self, file: int) -> None:
        """Return when the file's content would survive a loss of power."""
        ...

    def close(self, file: int) -> None: ...

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's names would survive a loss of power."""
        ...

    def set_modified(self, path: Path, at: float) -> None: ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, in place of ``target`` if there is one."""
        ...

    def remove(self, path: Path) -> None: ...

    def remove_folder(self, path: Path) -> None: ...

    def free_bytes(self, path: Path) -> int:
        """What may still be written to the filesystem that ``path`` is on."""
        ...


class OsFiles:
    """The operating system's files."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_ISVTX:
            raise PermissionError(errno.EPERM, "a folder shared with others", str(path))
        if mode & 0o077:
            path.chmod(0o700)

    def entries(self, path: Path) -> list[Entry]:
        found = []
        with os.scandir(path) as names:
            for name in names:
                try:
                    status = name.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(
                    Entry(
                        name.name,
                        stat.S_ISREG(status.st_mode),
                        stat.S_ISDIR(status.st_mode),
                        status.st_size,
                        status.st_mtime,
                        status.st_blocks * 512,
                    )
                )
        return found

    def lock(self, path: Path) -> int:
        file = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        return file

    def create(self, path: Path) -> int:
        return _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        flags = os.O_RDWR if writable else os.O_RDONLY
        return _open(path, flags | os.O_DIRECT if direct else flags)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        return os.preadv(file, into, offset)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        return os.pwritev(file, data, offset)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def allocate(self, file: int, size: int) -> None:
        try:
            _fallocate(file, size)
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
            if os.fstat(file).st_size < size:
                os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        os.fdatasync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def sync_folder(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def set_modified(self, path: Path, at: float) -> None:
        # A file that was tampered with may say any time, also one that no filesystem can.
        at = min(max(at, 0.0), _LATEST_S)
        os.utime(path, (at, at), follow_symlinks=False)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def free_bytes(self, path: Path) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def _open(path: Path, flags: int) -> int:
    # O_NONBLOCK: opening a pipe put in a file's place would wait for its other end.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def _fallocate(file: int, size: int) -> None:
    """The system call itself: where the filesystem cannot, os.posix_fallocate would write a byte
    into every block instead."""
    while _libc.fallocate(file, 0, 0, size):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


@contextmanager
def opened(files: Files, path: Path, *, writable: bool, direct: bool = False) -> Iterator[int]:
    """An open descriptor, closed on the way out."""
    file = files.open(path, writable=writable, direct=direct)
    try:
        yield file
    finally:
        files.close(file)


def probe_direct(files: Files, folder: Path) -> bool:
    """Whether files in ``folder`` can be read and written directly in units of a page: tried on a
    scratch file, because a filesystem may open a file so and then refuse every transfer. False
    for a disk that fails, too."""
    path = folder / PROBE
    page, back = aligned(PAGE_BYTES), aligned(PAGE_BYTES)
    page[:] = bytes(range(256)) * (PAGE_BYTES // 256)
    try:
        remove_if_there(files, path)
        files.close(files.create(path))
        try:
            with opened(files, path, writable=True, direct=True) as file:
                write_fully(files, file, [page], PAGE_BYTES)
                read = read_fully(files, file, [back], PAGE_BYTES)
        finally:
            files.remove(path)
    except OSError:
        return False
    return read == PAGE_BYTES and back == page


def read_fully(files: Files, file: int, into: Sequence[memoryview], offset: int) -> int:
    """Fill ``into`` from ``offset`` on; returns the bytes read, fewer only at the file's end."""
    return _transfer(files.read, file, into, offset)


def write_fully(files: Files, file: int, data: Sequence[memoryview], offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    if _transfer(files.write, file, data, offset) < sum(view.nbytes for view in data):
        raise OSError(errno.EIO, "the disk took only a part of a write")


def remove_if_there(files: Files, path: Path) -> None:
    """Remove a file; one that is gone already is as good."""
    try:
        files.remove(path)
    except FileNotFoundError:
        return


def _transfer(
    move: Callable[[int, Sequence[memoryview], int], int],
    file: int,
    views: Sequence[memoryview],
    offset: int,
) -> int:
    """Every round moves at least a byte or is the last."""
    left = [view for view in views if view.nbytes]
    done = 0
    while left:
        moved = move(file, left[:_BUFFERS_PER_CALL], offset + done)
        if moved <= 0:
            break
        done += moved
        while left and moved >= left[0].nbytes:
            moved -= left.pop(0).nbytes
        if moved:
            left[0] = left[0][moved:]
    return done
