"""``/health``: whether requests are served, and what they are served without."""

from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Lost = Callable[[], tuple[str, ...]]
"""Names of what is lost now: ``database``, ``coordination``."""


class Health:
    """An ASGI application: the engine's answer decides, and says what is missing.

    Without the database or the coordinator requests are still answered, so a server that only
    misses one of them is healthy: to restart it would not bring that back.
    """

    def __init__(self, engine_app: ASGIApp, lost: Lost) -> None:
        self._engine_app = engine_app
        self._lost = lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = False

        async def hear(message: Message) -> None:
            nonlocal served
            if message["type"] == "http.response.start":
                served = message["status"] == 200
            if not served:
                await send(message)

        await self._engine_app(scope, receive, hear)
        if served:
            lost = self._lost()
            body = {"status": "degraded" if lost else "ok", "lost": list(lost)}
            await JSONResponse(body)(scope, receive, send)
