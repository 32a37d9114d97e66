"""API keys over HTTP, on the fake engine: who needs one, and what it opens."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from app_harness import Run, Running
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from tenant_harness import bearer

from app.auth import tenant_of
from app.main import CannotServe, open_valet
from app.settings import load_settings
from engine.fake import FakeEngine
from sessions.database import Database, open_database
from sessions.tenancy.keys import NewKey
from sessions.tenancy.service import Tenancy
from sessions.types import StateUnavailable

T = TypeVar("T")
OPERATOR = "the-operators-own-key"


def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'home' / 'valet.db'}"


async def beside(tmp_path: Path, work: Callable[[Tenancy], Awaitable[T]]) -> T:
    """As the command line does it, beside the server."""
    database = await open_database(url(tmp_path))
    try:
        return await work(Tenancy(database, lambda: datetime.now(UTC)))
    finally:
        await database.close()


async def add_key(tmp_path: Path, tenant: str, life: timedelta | None = None) -> NewKey:
    return await beside(tmp_path, lambda tenancy: tenancy.add_key(tenant, "", life))


async def test_once_there_is_a_key_one_is_needed(run: Run, tmp_path: Path) -> None:
    async with run() as r:
        await r.get("/v1/sessions")
        key = await add_key(tmp_path, "alice")
        await r.valet.tenants.directory.refresh()
        await r.get("/v1/sessions", expect=401)
        await r.get("/v1/sessions", expect=401, headers=bearer(f"{key.text}x"))
        await r.get("/v1/sessions", headers=bearer(key.text))
        assert (await r.get("/v1/tenant", headers=bearer(key.text)))["name"] == "alice"
        await beside(tmp_path, lambda tenancy: tenancy.revoke_key(key.id))
        await r.valet.tenants.directory.refresh()
        # A server whose only key is revoked is closed, not open.
        await r.get("/v1/sessions", expect=401, headers=bearer(key.text))
        await r.get("/v1/sessions", expect=401)


async def test_keys_of_the_settings_work_beside_those_of_the_database(
    run: Run, tmp_path: Path
) -> None:
    key = await add_key(tmp_path, "alice")
    async with run(keys="static") as r:
        assert (await r.get("/v1/tenant", headers=bearer(key.text)))["name"] == "alice"
        static = await r.get("/v1/tenant", headers={"x-api-key": "static"})
        assert static["name"] == tenant_of("static")


async def test_without_the_database_only_keys_of_the_settings_are_known(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await add_key(tmp_path, "alice")
    async with run(keys="static") as r:
        monkeypatch.setattr(r.valet.tenants.directory, "_known", None)
        answer = await r.client.get("/v1/models", headers=bearer(key.text))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        await r.get("/v1/models", expect=401)
        await r.get("/v1/models", headers=bearer("static"))


async def test_a_lost_database_is_told_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: Database) -> None:
        raise StateUnavailable("gone")

    async with run(keys="static") as r:
        assert REGISTRY.get_sample_value("valet_tenants_stale") == 0
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(Database, "begin", lost)
            await r.valet.tenants.directory.refresh()
            assert REGISTRY.get_sample_value("valet_tenants_stale") == 1
            await r.get("/v1/models", headers=bearer("static"))
        await r.valet.tenants.directory.refresh()
        assert REGISTRY.get_sample_value("valet_tenants_stale") == 0


async def test_a_key_expires_by_itself(run: Run, tmp_path: Path) -> None:
    key = await add_key(tmp_path, "alice", timedelta(0))
    async with run() as r:
        await r.get("/v1/models", expect=401, headers=bearer(key.text))


@pytest.mark.parametrize("settings", [{"VALET_ALLOW_ANONYMOUS": "on"}, {"VALET_API_KEYS": "k"}, {}])
async def test_other_machines_need_a_key_or_a_flag(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    environ = {"VALET_HOME": str(tmp_path / "home"), "VALET_HOST": "0.0.0.0"}
    with pytest.raises(CannotServe, match="valet keys add"):
        async with open_valet(load_settings(environ, tmp_path), FakeEngine()):
            pass
    if not settings:
        await add_key(tmp_path, "alice")
    async with open_valet(load_settings(environ | settings, tmp_path), FakeEngine()) as valet:
        transport = httpx.ASGITransport(app=valet.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://valet") as client:
            answer = await client.get("/v1/models")
            assert answer.status_code == (200 if "VALET_ALLOW_ANONYMOUS" in settings else 401)


async def test_keys_that_vanish_do_not_open_the_server_to_other_machines(tmp_path: Path) -> None:
    key = await add_key(tmp_path, "alice")
    environ = {"VALET_HOME": str(tmp_path / "home"), "VALET_HOST": "0.0.0.0"}
    async with open_valet(load_settings(environ, tmp_path), FakeEngine()) as valet:
        database = await open_database(url(tmp_path))
        async with database.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM api_keys")
            await connection.exec_driver_sql("UPDATE tenancy SET version = version + 1")
        await database.close()
        await valet.tenants.directory.refresh()
        assert not valet.tenants.auth.in_force
        assert not isinstance(valet.tenants.auth.tenant({}), str)
        assert not isinstance(valet.tenants.auth.tenant(bearer(key.text)), str)


async def test_what_a_browser_asks_first_needs_no_key_and_tells_nothing(run: Run) -> None:
    others: tuple[dict[str, str], ...] = ({}, bearer("k1"))
    async with run(keys="k1", settings={"VALET_OPERATOR_KEY": OPERATOR}) as r:
        instrument(r.valet.engine_app)
        for path in ("/metrics", "/metrics/", "/metricsX", "/metrics/x"):
            for method in ("OPTIONS", "GET", "HEAD", "POST"):
                for headers in others:
                    answer = await r.client.request(method, path, headers=headers)
                    assert (answer.status_code, "vllm" in answer.text) == (401, False)
        answer = await r.client.get("/metrics/", headers=bearer(OPERATOR))
        assert (answer.status_code, answer.text) == (200, "vllm")
        for path in ("/v1/models", "/v1/chat/completions", "/v1/sessions/s1"):
            assert (await r.client.options(path)).status_code == 405
        for path in ("/v1/batch", "/v1/completions/render", "/"):
            assert (await r.client.options(path)).status_code == 401
            assert (await r.client.options(path, headers=bearer("k1"))).status_code == 404


def instrument(app: FastAPI) -> None:
    """Show metrics as vLLM does: whatever the method, and on whatever path begins so."""

    async def show(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("vllm")(scope, receive, send)

    mount = Mount("/metrics", show)
    mount.path_regex = re.compile("^/metrics(?P<path>.*)$")
    app.routes.append(mount)


async def test_metrics_are_the_operators(run: Run) -> None:
    async def status(r: Running, headers: dict[str, str]) -> int:
        return (await r.client.get("/metrics", headers=headers)).status_code

    async with run() as r:
        assert await status(r, {}) != 401
    async with run(settings={"VALET_OPERATOR_KEY": OPERATOR}) as r:
        assert await status(r, {}) == 401
        assert await status(r, bearer(OPERATOR)) != 401
    async with run(keys="k1", settings={"VALET_OPERATOR_KEY": OPERATOR}) as r:
        assert await status(r, {}) == 401
        assert await status(r, bearer("k1")) == 401
        assert await status(r, bearer(OPERATOR)) != 401
        await r.get("/v1/models", expect=401, headers=bearer(OPERATOR))
    async with run(keys="k1") as r:
        for headers in ({}, bearer("k1"), bearer(""), {"x-forwarded-for": "127.0.0.1"}):
            assert await status(r, headers) == 401
