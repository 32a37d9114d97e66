"""The threads that wait for the disk.

A thread in a system call on a hung disk cannot be stopped, so nobody waits for one without a limit:
who reads has a deadline, who asks how long the oldest call has run sees the hang, and ``shutdown``
leaves such a thread behind.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class IoPool:
    """A queued read is always taken before a queued write, and writes leave one thread to reads
    (unless there is only one). Within a kind the order is that of arrival.

    Every method may be called on any thread and only ``shutdown`` waits. What ``work`` raises is
    the future's. A future cancelled before its work began gives up its place at once; its work
    never runs. A future's callbacks run on the pool's threads, so they must be short.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` in seconds."""
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._reads = _Queue(threads)
        self._writes = _Queue(max(1, threads - 1))
        self._threads = [
            threading.Thread(target=self._work_until_closed, name=f"io-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def read(self, work: Callable[[], T]) -> Future[T]:
        """Run ``work``. RuntimeError after ``shutdown``."""
        return self._add(self._reads, work)

    def write(self, work: Callable[[], T]) -> Future[T]:
        """Run ``work`` once no read waits. RuntimeError after ``shutdown``."""
        return self._add(self._writes, work)

    def oldest_read_s(self) -> float:
        """Seconds that the longest of the reads running now has run; 0.0 when none runs."""
        with self._changed:
            began = next(iter(self._reads.running.values()), None)
            return 0.0 if began is None else max(0.0, self._clock() - began)

    def shutdown(self, wait_s: float) -> bool:
        """Take no more work, cancel what is queued and wait at most ``wait_s`` seconds for what
        runs. True when all threads have ended; else some still use their files and buffers, and
        nothing but the end of the process takes those from them. May be called again."""
        with self._changed:
            self._closed = True
            queued = [*self._reads.waiting, *self._writes.waiting]
            self._reads.waiting.clear()
            self._writes.waiting.clear()
            self._changed.notify_all()
        for future in queued:
            future.cancel()
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, wait_s)

    def _add(self, queue: "_Queue", work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the I/O pool is shut down")
            queue.waiting[future] = work
            self._changed.notify()
        future.add_done_callback(lambda done: self._forget(queue, done))
        return future

    def _forget(self, queue: "_Queue", future: Future[Any]) -> None:
        """Without this, reads given up one after the other would pile up behind a hung disk."""
        if future.cancelled():
            with self._changed:
                queue.waiting.pop(future, None)

    def _work_until_closed(self) -> None:
        while self._run_next():
            pass
        with self._changed:
            self._threads.remove(threading.current_thread())
            self._changed.notify_all()

    def _run_next(self) -> bool:
        """One piece of work, nothing of which stays referenced by an idle thread."""
        with self._changed:
            while not (queue := self._next_queue()):
                if self._closed:
                    return False
                self._changed.wait()
            future, work = queue.waiting.popitem(last=False)
            if not future.set_running_or_notify_cancel():
                return True
            queue.running[future] = self._clock()
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - whoever waits for the result gets it
            error = raised
        with self._changed:
            del queue.running[future]
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        # An error's traceback keeps this frame: without this the two would keep each other.
        del future, work, error
        return True

    def _next_queue(self) -> "_Queue | None":
        for queue in (self._reads, self._writes):
            if queue.waiting and len(queue.running) < queue.at_once:
                return queue
        return None


class _Queue:
    """What waits and what runs of one kind; under the pool's lock."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.waiting: OrderedDict[Future[Any], Callable[[], Any]] = OrderedDict()
        self.running: dict[Future[Any], float] = {}
        """When each began, the oldest first."""
