"""``/health`` says whether requests are served, and what they are served without."""

import pytest
from app_harness import Run
from sqlalchemy.exc import OperationalError

from sessions.types import StateUnavailable


async def test_a_server_that_has_everything_is_ok(run: Run) -> None:
    async with run(keys="key-of-alice") as r:
        assert await r.get("/health") == {"status": "ok", "lost": []}


async def test_a_server_without_its_database_is_healthy_and_says_so(run: Run) -> None:
    async with run() as r:
        database = r.valet.sessions.units._database
        with pytest.raises(StateUnavailable):
            async with database.begin():
                raise OperationalError("", {}, Exception("gone"))
        assert await r.get("/health") == {"status": "degraded", "lost": ["database"]}
        async with database.begin():
            pass
        assert await r.get("/health") == {"status": "ok", "lost": []}


async def test_a_dead_engine_is_not_healthy(run: Run) -> None:
    async with run() as r:
        r.engine.die()
        assert (await r.client.get("/health")).status_code == 503
