"""The HTTP server: one socket, one application, and how it stops.

The first SIGTERM or SIGINT closes the socket and lets running requests finish; a second one ends
them at once.
"""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048


class Server(uvicorn.Server):
    """Uvicorn with the signals left to ``StopSignals``."""

    def __init__(self, app: ASGIApp, drain_s: float, ready: str) -> None:
        """``ready`` is printed when requests are accepted."""
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._ready, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # Uvicorn leaves it out in a hurry; the application's tasks would be left behind.
            await self.lifespan.shutdown()

    def stop(self, *, at_once: bool) -> None:
        """Stop accepting and wait for running requests, or end them now."""
        self.should_exit = True
        if at_once:
            self.force_exit = True
            # Uvicorn alone would still wait for open connections.
            for task in self.server_state.tasks:
                task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    # Connections inherit it. Without it a token waits 40 ms for a client to acknowledge the one
    # before; asyncio sets it only where a socket names its protocol.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@dataclass(slots=True)
class StopSignals:
    """Turns signals into the end of a server; a context manager on the event loop's thread.

    Before there is a server, a signal cancels the task that entered the context.
    """

    drain_s: float
    server: Server | None = None
    _asked_at: float | None = None
    _forced: bool = False
    _task: "asyncio.Task[object] | None" = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._asked_at is not None

    def left_s(self) -> float:
        """What is left of the time to stop; all of it while nobody asked, 0 after two signals."""
        if self._forced:
            return 0.0
        if self._asked_at is None:
            return self.drain_s
        return max(0.0, self._asked_at + self.drain_s - asyncio.get_running_loop().time())

    def _on_signal(self) -> None:
        self._forced = self.asked
        if self._asked_at is None:
            self._asked_at = asyncio.get_running_loop().time()
        if self.server is not None:
            self.server.stop(at_once=self._forced)
        elif self._task is not None:
            self._task.cancel()
