"""``/metrics``: shown by the engine's application, with what the engine has to be asked for."""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.metrics import show_foresight
from engine.port import EngineError, EnginePort

WAIT_S: Final = 0.25
"""How long a scrape waits for an engine that is computing; it then shows what was known before."""


class Scrape:
    """An ASGI application. Scrapes that come together ask once."""

    def __init__(self, engine_app: ASGIApp, engine: EnginePort) -> None:
        self._engine_app = engine_app
        self._engine = engine
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.wait((self._asking,), timeout=WAIT_S)
        await self._engine_app(scope, receive, send)

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))

    async def _ask(self) -> None:
        with suppress(EngineError):
            show_foresight(await self._engine.foresight())
