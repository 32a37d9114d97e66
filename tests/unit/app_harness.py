"""What tests of the whole application share: a running Valet, and clients of it."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from app.main import Valet
from engine.fake import FakeEngine


@dataclass(slots=True)
class Running:
    """A running Valet and a client of it."""

    valet: Valet
    engine: FakeEngine
    client: httpx.AsyncClient

    async def chat(self, *texts: str, expect: int = 200, **more: Any) -> dict[str, Any]:
        """One chat request; ``texts`` alternate between user and assistant."""
        headers = more.pop("headers", {})
        body = {"model": "fake", "messages": messages(*texts)} | more
        answer = await self.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == expect, answer.text
        await self.valet.desk.settle(5)
        return answer.json()

    async def get(self, path: str, expect: int = 200, **more: Any) -> dict[str, Any]:
        answer = await self.client.get(path, **more)
        assert answer.status_code == expect, answer.text
        return answer.json()

    async def post(self, path: str, expect: int = 200, **more: Any) -> dict[str, Any]:
        answer = await self.client.post(path, **more)
        assert answer.status_code == expect, answer.text
        return answer.json()


Run = Callable[..., AbstractAsyncContextManager[Running]]


def messages(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def sse(text: str) -> list[Any]:
    """The data of a stream's events; ``[DONE]`` as that string."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


class RawRequest:
    """One request driven message by message, as a server would."""

    def __init__(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None):
        self._raw = json.dumps(body).encode()
        given = {"content-type": "application/json"} | (headers or {})
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.sent: list[Any] = []
        self._given = False

    async def run(
        self,
        app: Any,
        leave: Callable[[], Awaitable[None]],
        seen: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """The client leaves when ``leave`` returns; ``seen`` hears of every message sent to it."""

        async def receive() -> dict[str, Any]:
            if not self._given:
                self._given = True
                return {"type": "http.request", "body": self._raw, "more_body": False}
            await leave()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)
            seen(message)

        await app(self.scope, receive, send)
