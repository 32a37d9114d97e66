"""The server as a process sees it: a socket, signals, and an end."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from app_harness import messages

from app.auth import SecretUnusable, load_secret
from app.main import CannotServe, serve
from app.server import bind
from app.settings import Settings, load_settings
from engine.fake import FakeEngine
from engine.port import EngineDead
from load.server import free_port

CHAT = {"messages": messages("a b c"), "session_id": "s1"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home, port = tmp_path / "home", free_port()
    environ = {"VALET_HOME": str(home), "PORT": str(port), "VALET_DRAIN_S": "60"}
    return load_settings(environ, tmp_path)


@asynccontextmanager
async def serving(
    settings: Settings, engine: FakeEngine, ready: Callable[[], bool]
) -> AsyncIterator[tuple[asyncio.Task[None], httpx.AsyncClient]]:
    async with asyncio.timeout(120):
        task = asyncio.create_task(serve(settings, lambda _: engine))
        while not ready():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{settings.port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield task, client
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def ready(capsys: pytest.CaptureFixture[str]) -> Callable[[], bool]:
    seen: list[str] = []

    def look() -> bool:
        seen.append(capsys.readouterr().out)
        return "Valet is ready on http://127.0.0.1:" in "".join(seen)

    return look


async def test_a_signal_lets_running_requests_finish(
    settings: Settings, ready: Callable[[], bool]
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        started.set()
        await go.wait()

    engine = FakeEngine(pace=pace)
    async with serving(settings, engine, ready) as (server, client):
        turn = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while await _accepts(client):
            pass
        assert not server.done()
        go.set()
        assert (await turn).json()["kv_receipt"]["turn"] == 1
    assert server.done()
    assert server.exception() is None
    with pytest.raises(EngineDead):
        engine.check_alive()


async def _accepts(client: httpx.AsyncClient) -> bool:
    try:
        async with httpx.AsyncClient(base_url=client.base_url) as other:
            await other.get("/health")
    except httpx.TransportError:
        return False
    return True


async def test_a_second_signal_ends_it_at_once(
    settings: Settings, ready: Callable[[], bool]
) -> None:
    started, never = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        started.set()
        await never.wait()

    async with serving(settings, FakeEngine(pace=pace), ready) as (server, client):
        turn = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await started.wait()
        before = asyncio.get_running_loop().time()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await server
        assert asyncio.get_running_loop().time() - before < 30
        turn.cancel()


async def test_a_used_port_is_known_before_the_engine_starts(settings: Settings) -> None:
    def make_engine(_: Settings) -> FakeEngine:
        raise AssertionError("the engine was made")

    with (
        socket.create_server(("127.0.0.1", settings.port)),
        pytest.raises(CannotServe, match=str(settings.port)),
    ):
        await serve(settings, make_engine)


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "secret"
    assert load_secret(file) == load_secret(file)
    assert len(load_secret(file)) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [f.name for f in file.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize(("content", "mode"), [(b"short", 0o600), (b"x" * 32, 0o644)])
def test_a_bad_secret_stops_the_start(tmp_path: Path, content: bytes, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(SecretUnusable):
        load_secret(file)


def test_tokens_are_sent_at_once() -> None:
    with (
        bind("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
