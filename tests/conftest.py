"""What tests of several kinds share: how they are spread over processes, and the databases that
several API processes share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.services.postgresql import PostgresServer, some_postgres
from tests.services.redis_server import some_redis
from tests.state_database import Backend, SqliteBackend

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.spread import OneProcessForEngines

# How long an example takes says how busy the machine is. The same examples each time, so that what
# fails is what was changed; others with ``--hypothesis-profile=explore``.
settings.register_profile("valet", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile("valet")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "OneProcessForEngines":
    """How ``-n`` spreads tests."""
    from tests.spread import OneProcessForEngines

    return OneProcessForEngines(config, log)


@pytest.fixture(scope="session")
def own_servers() -> bool:
    """Whether the tests start PostgreSQL and Redis themselves, whatever else is there."""
    return os.environ.get("VALET_TEST_OWN_SERVERS") == "1"


@pytest.fixture(scope="session")
def postgres(own_servers: bool) -> Iterator[PostgresServer]:
    """A PostgreSQL server, for databases of one's own."""
    with some_postgres(own=own_servers) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_url(postgres: PostgresServer) -> str:
    """One database, shared by all that ask for it; made empty."""
    return postgres.create_database()


@pytest.fixture(scope="session")
def redis_url(own_servers: bool) -> Iterator[str]:
    """One database of a Redis server, shared by all that ask for it; made empty."""
    with some_redis(own=own_servers) as url:
        yield url


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    """An empty session database. Tests below ``integration/postgresql`` have another one under
    this name."""
    return SqliteBackend(tmp_path / "state.db")
