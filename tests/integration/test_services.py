"""The servers that the tests use are real, whether found or started."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
import redis
import redis.asyncio
from sqlalchemy import make_url

from tests.services.own_process import accepts, running
from tests.services.postgresql import OwnPostgres
from tests.services.redis_server import OwnRedis


async def ask(url: str, question: str) -> object:
    parsed = make_url(url)
    connection = await asyncpg.connect(
        host=parsed.host, port=parsed.port, user=parsed.username, database=parsed.database
    )
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def run(work: Coroutine[Any, Any, object]) -> object:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def test_a_postgresql_of_our_own_keeps_what_was_committed_when_it_crashes() -> None:
    with running(OwnPostgres()) as own:
        url = own.server.create_database()
        run(ask(url, "CREATE TABLE kept AS SELECT 7 AS number"))
        own.crash()
        assert not accepts(own.server.port)
        own.start()
        assert run(ask(url, "SELECT number FROM kept")) == 7
        copy = own.server.create_database(template=url)
        assert run(ask(copy, "SELECT number FROM kept")) == 7
    assert not accepts(own.server.port)


def test_a_redis_of_our_own_is_empty_after_a_restart() -> None:
    with running(OwnRedis()) as own, redis.Redis.from_url(own.url) as client:
        assert client.set("a", "1")
        own.kill()
        own.start()
        assert client.get("a") is None
    assert not accepts(own.port)


async def test_the_shared_servers_answer(postgresql_url: str, redis_url: str) -> None:
    assert str(await ask(postgresql_url, "SELECT version()")).startswith("PostgreSQL")
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert "redis_version" in await client.info("server")
