"""What the disk gives without a store: the baselines of ``load.bench_store``.

Large transfers on a few threads, past the page cache: more threads or larger transfers gained
nothing where it was measured.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

TRANSFER_BYTES: Final = 8 * 2**20
READ_THREADS: Final = 4
WRITE_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file, in bytes; on page boundaries for direct I/O."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of a transfer."""

    bytes: int
    seconds: float
    cpu_s: float
    """Of all threads of this process."""

    @classmethod
    def of(cls, transfer: Callable[[], int]) -> Self:
        """Run ``transfer``, which returns the bytes it moved."""
        start, cpu = time.perf_counter(), time.process_time()
        moved = transfer()
        return cls(moved, time.perf_counter() - start, time.process_time() - cpu)

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds

    @property
    def cpu_ms_per_gb(self) -> float:
        return self.cpu_s * 1e3 / (self.bytes / 1e9)


def written(path: Path) -> list[Span]:
    """The parts of a file that were written, in order. What is only allocated is left out: it
    reads as zeros, without the disk."""
    spans = []
    with _opened(path, os.O_RDONLY, direct=False) as file:
        size = os.fstat(file).st_size
        end = 0
        while end < size:
            try:
                start = os.lseek(file, end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left.
                break
            end = os.lseek(file, start, os.SEEK_HOLE)
            spans.append(Span(path, start, end - start))
    return spans


def last_written(paths: Sequence[Path], size: int) -> list[Span]:
    """The last ``size`` bytes of what was written to ``paths``, or all when there are fewer."""
    some: list[Span] = []
    for path in reversed(paths):
        for span in reversed(written(path)):
            length = min(span.length, size - sum(part.length for part in some))
            if length > 0:
                some.append(Span(path, span.offset + span.length - length, length))
    return some


def drop_page_cache(folder: Path) -> None:
    """Have the system forget its copies of the files in ``folder``, so that a read is the disk's.

    Only clean pages can be dropped: the files are synced first.
    """
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def allocate(paths: Sequence[Path], size: int) -> list[Span]:
    """Make files of ``size`` bytes with room on the disk; each as one span."""
    for path in paths:
        with _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, direct=False) as file:
            os.posix_fallocate(file, 0, size)
            os.fsync(file)
    return [Span(path, 0, size) for path in paths]


def read(spans: Sequence[Span], into: memoryview, *, direct: bool = True) -> int:
    """Read ``spans`` one behind the other into page-aligned memory; returns the bytes read.

    Without ``direct`` the page cache should have been dropped before. Raises OSError, also when a
    file is shorter than its span.
    """
    with ExitStack() as stack, ThreadPoolExecutor(READ_THREADS) as pool:
        files = _open_all(stack, spans, os.O_RDONLY, direct)
        jobs, at = [], 0
        for part in _transfers(spans):
            view = into[at : at + part.length]
            jobs.append(pool.submit(_fill, files[part.path], view, part.offset))
            at += part.length
        for job in jobs:
            job.result()
    return at


def write(spans: Sequence[Span], source: memoryview, *, direct: bool = True) -> int:
    """Write ``spans`` from page-aligned memory, whole transfers long, that is used again and again;
    returns the bytes written when they would survive a loss of power. Raises OSError."""
    with ExitStack() as stack, ThreadPoolExecutor(WRITE_THREADS) as pool:
        files = _open_all(stack, spans, os.O_WRONLY, direct)
        jobs = []
        for number, part in enumerate(_transfers(spans)):
            start = number * TRANSFER_BYTES % source.nbytes
            view = source[start : start + part.length]
            jobs.append(pool.submit(_drain, files[part.path], view, part.offset))
        for job in jobs:
            job.result()
        for done in [pool.submit(os.fdatasync, file) for file in files.values()]:
            done.result()
    return sum(span.length for span in spans)


def _transfers(spans: Sequence[Span]) -> Iterator[Span]:
    for span in spans:
        for at in range(0, span.length, TRANSFER_BYTES):
            yield Span(span.path, span.offset + at, min(TRANSFER_BYTES, span.length - at))


def _fill(file: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < view.nbytes:
        moved = os.preadv(file, [view[done:]], offset + done)
        if not moved:
            raise OSError("the file ends before its span does")
        done += moved


def _drain(file: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < view.nbytes:
        done += os.pwritev(file, [view[done:]], offset + done)


def _open_all(stack: ExitStack, spans: Sequence[Span], flags: int, direct: bool) -> dict[Path, int]:
    paths = dict.fromkeys(span.path for span in spans)
    return {path: stack.enter_context(_opened(path, flags, direct=direct)) for path in paths}


@contextmanager
def _opened(path: Path, flags: int, *, direct: bool) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC | (os.O_DIRECT if direct else 0), 0o600)
    try:
        yield file
    finally:
        os.close(file)
