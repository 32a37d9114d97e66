"""Valet as it is served, on the shipped fake engine: what is left to measure is its own work."""

import asyncio
import heapq
import os
import threading
import time
from contextvars import ContextVar
from pathlib import Path

from app.main import serve
from app.settings import load_settings
from engine.fake import FakeEngine

WORD_S = 0.01
"""A fast engine's time per token."""


class Metronome(threading.Thread):
    """Wakes tasks when their tokens are due. An engine is a process of its own: its tokens come
    when they are ready, however busy the server was, and not at an event loop's whole
    milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._due: ContextVar[float] = ContextVar("due", default=0.0)
        self._waiting: list[tuple[float, int, asyncio.Event, asyncio.AbstractEventLoop]] = []
        self._changed = threading.Condition()
        self._count = 0

    async def step(self) -> None:
        """Until the request's next token is due."""
        due = (self._due.get() or time.monotonic()) + WORD_S
        self._due.set(due)
        ready = asyncio.Event()
        with self._changed:
            self._count += 1
            waiting = (due, self._count, ready, asyncio.get_running_loop())
            heapq.heappush(self._waiting, waiting)
            if self._waiting[0] is waiting:
                self._changed.notify()
        await ready.wait()

    def run(self) -> None:
        """Until the process ends."""
        with self._changed:
            while True:
                now = time.monotonic()
                while self._waiting and self._waiting[0][0] <= now:
                    _, _, ready, loop = heapq.heappop(self._waiting)
                    loop.call_soon_threadsafe(ready.set)
                self._changed.wait(self._waiting[0][0] - now if self._waiting else None)


def main() -> None:
    """Serve with the settings of the environment until SIGTERM."""
    settings = load_settings(os.environ, Path.cwd())
    metronome = Metronome()
    metronome.start()
    asyncio.run(serve(settings, lambda _: FakeEngine(max_model_len=1 << 20, pace=metronome.step)))


if __name__ == "__main__":
    main()
