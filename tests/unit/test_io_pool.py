"""Threads that wait for the disk, and a disk that hangs."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from cache_tiers.ssd.io_pool import IoPool

SOON = 30.0
"""Seconds after which something that must happen has not."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Work that hangs until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.over = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.over.wait(SOON)
        return "went on"


class Pools:
    """Makes pools and gates; lets everything go at the test's end."""

    def __init__(self) -> None:
        self._pools: list[IoPool] = []
        self._gates: list[Gate] = []

    def pool(self, threads: int, clock: Callable[[], float] | None = None) -> IoPool:
        pool = IoPool(threads, clock) if clock else IoPool(threads)
        self._pools.append(pool)
        return pool

    def gate(self) -> Gate:
        self._gates.append(Gate())
        return self._gates[-1]

    def hang(self, add: Callable[[Gate], Future[str]]) -> tuple[Gate, Future[str]]:
        """A gate that a thread of the pool stands at."""
        gate = self.gate()
        future = add(gate)
        assert gate.begun.wait(SOON)
        return gate, future

    def end(self) -> None:
        for gate in self._gates:
            gate.over.set()
        for pool in self._pools:
            assert pool.shutdown(SOON)


@pytest.fixture
def pools() -> Iterator[Pools]:
    pools = Pools()
    yield pools
    pools.end()


def test_results_and_errors_are_the_futures(pools: Pools) -> None:
    pool = pools.pool(2)
    assert pool.read(lambda: 1).result(SOON) == 1
    assert pool.write(lambda: "two").result(SOON) == "two"

    class Stop(BaseException):
        pass

    def fail(error: type[BaseException]) -> None:
        raise error

    for add in (pool.read, pool.write):
        for error in (OSError, Stop):
            with pytest.raises(error):
                add(lambda error=error: fail(error)).result(SOON)
    assert pool.read(lambda: 3).result(SOON) == 3


def test_reads_are_taken_before_writes_and_each_kind_in_order(pools: Pools) -> None:
    pool = pools.pool(1)
    gate, _ = pools.hang(pool.read)
    order: list[str] = []
    futures = []
    for name in ("w1", "r1", "w2", "r2"):
        add = pool.read if name[0] == "r" else pool.write
        futures.append(add(lambda name=name: order.append(name)))
    gate.over.set()
    for future in futures:
        future.result(SOON)
    assert order == ["r1", "r2", "w1", "w2"]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_writes_leave_a_thread_to_reads(pools: Pools, threads: int) -> None:
    pool = pools.pool(threads)
    gates = [pools.hang(pool.write)[0] for _ in range(threads - 1)]
    another = pools.gate()
    written = pool.write(another)
    assert pool.read(lambda: "read").result(SOON) == "read"
    assert not another.begun.is_set()
    gates[0].over.set()
    assert another.begun.wait(SOON)
    assert pool.read(lambda: "read").result(SOON) == "read"
    another.over.set()
    assert written.result(SOON) == "went on"


def test_reads_may_take_every_thread(pools: Pools) -> None:
    pool = pools.pool(3)
    for _ in range(3):
        pools.hang(pool.read)
    waiting = pool.read(lambda: None)
    assert waiting.cancel()


def test_one_thread_does_both(pools: Pools) -> None:
    pool = pools.pool(1)
    gate, written = pools.hang(pool.write)
    read = pool.read(lambda: "read")
    assert not read.done()
    gate.over.set()
    assert written.result(SOON) == "went on"
    assert read.result(SOON) == "read"


def test_the_oldest_running_read_shows_that_the_disk_hangs(pools: Pools) -> None:
    clock = Clock()
    pool = pools.pool(4, clock)
    third, written = pools.hang(pool.write)
    clock.now += 1
    assert pool.oldest_read_s() == 0.0
    first, read = pools.hang(pool.read)
    clock.now += 5
    second, later = pools.hang(pool.read)
    clock.now += 2
    assert pool.oldest_read_s() == 7.0
    first.over.set()
    read.result(SOON)
    assert pool.oldest_read_s() == 2.0
    second.over.set()
    third.over.set()
    later.result(SOON)
    written.result(SOON)
    assert pool.oldest_read_s() == 0.0


def test_what_waits_is_not_running(pools: Pools) -> None:
    clock = Clock()
    pool = pools.pool(1, clock)
    gate, first = pools.hang(pool.read)
    clock.now += 4
    behind = pool.read(pools.gate())
    clock.now += 5
    assert pool.oldest_read_s() == 9.0
    behind.cancel()
    gate.over.set()
    first.result(SOON)
    assert pool.oldest_read_s() == 0.0


def test_a_clock_that_goes_back_is_no_hang(pools: Pools) -> None:
    clock = Clock()
    pool = pools.pool(1, clock)
    pools.hang(pool.read)
    clock.now -= 50
    assert pool.oldest_read_s() == 0.0


def test_reads_given_up_do_not_pile_up_behind_a_hung_disk(pools: Pools) -> None:
    class Buffer:
        pass

    pool = pools.pool(1)
    gate, _ = pools.hang(pool.read)
    ran: list[Buffer] = []
    buffer = Buffer()
    alive = weakref.ref(buffer)
    for _ in range(100):
        assert pool.read(lambda buffer=buffer: ran.append(buffer)).cancel()
    del buffer
    assert alive() is None
    gate.over.set()
    assert pool.read(lambda: "next").result(SOON) == "next"
    assert not ran


def test_running_work_cannot_be_given_up(pools: Pools) -> None:
    pool = pools.pool(1)
    gate, read = pools.hang(pool.read)
    assert not read.cancel()
    gate.over.set()
    assert read.result(SOON) == "went on"


@pytest.mark.parametrize("fails", [False, True])
def test_an_idle_thread_holds_nothing_of_its_last_work(pools: Pools, fails: bool) -> None:
    class Buffer:
        pass

    def use(buffer: Buffer) -> None:
        if fails:
            raise OSError

    pool = pools.pool(1)
    buffer = Buffer()
    alive = weakref.ref(buffer)
    future = pool.read(partial(use, buffer))
    assert isinstance(future.exception(SOON), OSError) is fails
    # The one thread has left the work before when it is done with the next.
    pool.read(lambda: None).result(SOON)
    gc.disable()
    try:
        del buffer, future
        assert alive() is None
    finally:
        gc.enable()


def test_after_shutdown_there_is_no_work(pools: Pools) -> None:
    pool = pools.pool(2)
    assert pool.shutdown(SOON)
    assert pool.shutdown(SOON)
    for add in (pool.read, pool.write):
        with pytest.raises(RuntimeError):
            add(lambda: None)


def test_shutdown_cancels_what_waits_and_lets_what_runs_end(pools: Pools) -> None:
    pool = pools.pool(2)
    read_gate, read = pools.hang(pool.read)
    write_gate, write = pools.hang(pool.write)
    waiting = [pool.read(lambda: None), pool.write(lambda: None)]
    for future in waiting:
        future.add_done_callback(lambda _: read_gate.over.set())
    write_gate.over.set()
    assert pool.shutdown(SOON)
    assert read.result(0) == write.result(0) == "went on"
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(0)


def test_shutdown_leaves_a_hung_thread_behind(pools: Pools) -> None:
    pool = pools.pool(1)
    gate, read = pools.hang(pool.read)
    waiting = pool.write(lambda: None)
    assert not pool.shutdown(0.01)
    assert not read.done()
    assert waiting.cancelled()
    gate.over.set()
    assert pool.shutdown(SOON)
    assert read.result(0) == "went on"


def test_a_hung_disk_does_not_keep_a_process_from_ending() -> None:
    script = """
import threading
from cache_tiers.ssd.io_pool import IoPool
pool, begun = IoPool(2), threading.Semaphore(0)
def hang():
    begun.release()
    threading.Event().wait()
pool.read(hang)
pool.write(hang)
begun.acquire()
begun.acquire()
print(pool.shutdown(0.01))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "False\n", "")


def test_many_threads_add_and_cancel(pools: Pools) -> None:
    pool = pools.pool(4)
    done: list[int] = []

    def add(start: int) -> None:
        futures = []
        for number in range(start, start + 200):
            kind = pool.write if number % 3 else pool.read
            futures.append((number, kind(lambda number=number: number)))
            if number % 5 == 0:
                futures[-1][1].cancel()
        for number, future in futures:
            if not future.cancelled():
                assert future.result(SOON) == number
            done.append(number)

    threads = [threading.Thread(target=add, args=(start,)) for start in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert sorted(done) == list(range(1600))
    assert pool.oldest_read_s() == 0.0
