"""The session database is one on PostgreSQL, a new one for each test."""

from collections.abc import Iterator

import pytest

from tests.services.postgresql import PostgresServer
from tests.state_database import Backend, PostgresBackend


@pytest.fixture
def backend(postgres: PostgresServer) -> Iterator[Backend]:
    url = postgres.create_database()
    yield PostgresBackend(url)
    postgres.drop_database(url)
