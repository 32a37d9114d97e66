"""A real Valet in its own process, as a user would run it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from load.server import free_port

REPOSITORY = Path(__file__).parents[1]
MODELS = REPOSITORY / "build" / "test-models"
"""The default model, made once and shared by every home of the tests."""
START_S = 600
"""A minute on slow processors; more beside other programs."""
STOP_S = 60
MODEL = "SmolLM2-135M-Instruct"


@dataclass
class ValetProcess:
    """One server on ``home``; started and stopped as often as asked. ``env`` holds VALET_…."""

    home: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    program: Sequence[str] = ("app", "serve")
    """A module and its arguments."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")

    @property
    def store(self) -> Path:
        return self.home / "store"

    def start(self, **env: str) -> "ValetProcess":
        """Returns when the server says it is ready; raises with the end of its log otherwise."""
        assert self.process is None
        self.home.mkdir(parents=True, exist_ok=True)
        MODELS.mkdir(parents=True, exist_ok=True)
        models = self.home / "models"
        if not models.is_symlink():
            models.symlink_to(MODELS)
        settings = {
            "VALET_HOME": str(self.home),
            "PORT": str(self.port),
            "VALET_DEVICE_KV": "768MiB",
            "VALET_DRAM": "256MiB",
            "VALET_SSD": "2GiB",
            # A loaded machine is no reason to lose a session.
            "VALET_RESOLVE_WAIT_S": "10",
            **self.env,
            **env,
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith("VALET_")}
        began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.program],
                cwd=REPOSITORY,
                env=clean | settings,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while b"Valet is ready" not in self._log_from(began):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log_from(began)[-4000:].decode(errors="replace")
                raise AssertionError(f"the server did not start:\n{tail}")
            time.sleep(0.1)
        return self

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_S)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL to the server alone, as an out-of-memory killer would; waits for its children."""
        if self.process is None:
            return
        children = self.processes()
        self.process.kill()
        self.process.wait(STOP_S)
        self.process = None
        # An engine has 10 s to close its store and is killed then; a busy disk delays even that.
        _, alive = psutil.wait_procs(children, timeout=STOP_S)
        for process in alive:
            process.kill()
        assert not alive, f"processes outlived the server: {alive}"

    def processes(self) -> list[psutil.Process]:
        """The server's children, whatever their depth."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=240, **options)

    def text_log(self) -> str:
        return self.log.read_text(errors="replace")

    def _log_from(self, offset: int) -> bytes:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read()

    def __enter__(self) -> "ValetProcess":
        return self if self.process else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
