"""A server that the tests start themselves: ended with them, whatever happens to them."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

START_S = 60
STOP_S = 30

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class OwnServer(Protocol):
    """A server of our own: made, started, closed."""

    def start(self) -> None:
        """Returns when it answers."""

    def close(self) -> None:
        """End it and leave nothing behind."""


Own = TypeVar("Own", bound=OwnServer)


@contextmanager
def running(own: Own) -> Iterator[Own]:
    """``own``, which runs until the block ends."""
    try:
        own.start()
        yield own
    finally:
        own.close()


def user_id() -> int | None:
    """Whom a server runs as that refuses to run as root; None for the user who runs the tests."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def private_folder(name: str) -> Path:
    """A new folder that the server's user, and no other, can use. Not below pytest's own, which
    the server's user may not enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"valet-{name}-"))
    if (user := user_id()) is not None:
        os.chown(folder, user, -1)
    return folder


def reachable(folders: Sequence[Path], spare: Path) -> list[Path]:
    """The folders, or copies in ``spare`` when another user cannot enter what is above them."""
    if user_id() is None or all(above.stat().st_mode & 0o001 for above in folders[0].parents):
        return list(folders)
    return [Path(shutil.copytree(folder, spare / folder.name)) for folder in folders]


class OwnProcess:
    """One process, started and stopped as often as asked."""

    def __init__(self, command: Sequence[str | Path], port: int, log: Path) -> None:
        """It listens on ``port`` of 127.0.0.1 when it can be used."""
        self.port = port
        self._command = [str(word) for word in command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the port accepts; raises with the end of the log otherwise."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                preexec_fn=_end_with_parent,
                **as_user(),
            )
        until = time.monotonic() + START_S
        while not accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"it did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals) -> None:
        """Send ``how`` and wait for the end; SIGKILL when it does not come."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
        self._process = None


def as_user() -> dict[str, object]:
    """Arguments of ``subprocess`` that run a program as the server's user."""
    user = user_id()
    return {} if user is None else {"user": user, "extra_groups": []}


def accepts(port: int) -> bool:
    """Whether somebody listens on ``port`` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGQUIT))
