"""Valet whole, around the fake engine, in one process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from app_harness import Run, Running

from app import lease_claim
from app.main import open_valet
from app.settings import load_settings
from engine.fake import FakeEngine
from engine.fake_cache import FakeDisk
from sessions.tenancy import session_quota


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs Valet on the same home as often as asked; a disk kept by the test makes it a restart."""

    # Nor to answer without having counted sessions, or without knowing of a lease.
    monkeypatch.setattr(session_quota, "WAIT_S", 10)
    monkeypatch.setattr(lease_claim, "WAIT_S", 10)

    @asynccontextmanager
    async def start(
        disk: FakeDisk | None = None,
        *,
        keys: str = "",
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[Running]:
        environ = {
            "VALET_HOME": str(tmp_path / "home"),
            "VALET_API_KEYS": keys,
            # A loaded machine is no reason to lose a session.
            "VALET_RESOLVE_WAIT_S": "10",
            **(settings or {}),
        }
        engine = FakeEngine(disk, **options)
        async with open_valet(load_settings(environ, tmp_path), engine) as valet:
            transport = httpx.ASGITransport(app=valet.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://valet") as client:
                yield Running(valet, engine, client)

    return start
