"""Memory that direct I/O can use: whole pages at page addresses."""

import mmap
import threading

import numpy as np

from cache_tiers.ssd.extent import PAGE_BYTES


def aligned(size: int) -> memoryview:
    """``size`` writable bytes, all zero, that begin on a page. They take no memory until touched,
    and go back to the system with the last view of them."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def is_aligned(view: memoryview) -> bool:
    """Whether a contiguous ``view`` begins on a page and is whole pages long. About 1 us."""
    address = np.frombuffer(view, np.uint8).ctypes.data
    return (address | view.nbytes) % PAGE_BYTES == 0


class BufferPool:
    """At most ``count`` page-aligned blocks of ``size`` bytes, lent and taken back. Thread safe."""

    def __init__(self, size: int, count: int) -> None:
        self._free = [aligned(size) for _ in range(count)]
        self._lent: set[int] = set()
        self._returned = threading.Condition()

    def get(self, wait_s: float | None = None) -> memoryview:
        """A block nobody else has, its content undefined. Waits until one is free, at most
        ``wait_s`` seconds: TimeoutError then, an OSError, for it is the disk that holds them."""
        with self._returned:
            if not self._returned.wait_for(lambda: self._free, wait_s):
                raise TimeoutError("no buffer became free")
            # The one returned last: its memory is there already.
            block = self._free.pop()
            self._lent.add(id(block))
            return block

    def put(self, block: memoryview) -> None:
        """Take back a block that ``get`` gave; ValueError for any other memory."""
        with self._returned:
            if id(block) not in self._lent:
                raise ValueError("not a block that was lent")
            self._lent.remove(id(block))
            self._free.append(block)
            self._returned.notify()
