"""A service of the compose file as processes of this machine: its own command, environment and
health check, with the container's paths, names and ports replaced by this machine's."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.services.own_process import as_user

START_S = 600
STOP_S = 60


@dataclass(frozen=True, slots=True)
class Place:
    """What is different from a container."""

    words: Mapping[str, str]
    """Replaced wherever they occur, in this order."""
    folder: Path
    """The working folder."""
    log: Path
    path: str
    """Where programs are looked for."""
    as_other: bool = False
    """Run it as a user who is not root, as the image does."""

    def translate(self, text: str) -> str:
        for word, here in self.words.items():
            text = text.replace(word, here)
        return text


class NativeService:
    """One service; ``entrypoint`` is what the image puts before the command."""

    def __init__(self, described: Mapping[str, Any], place: Place, entrypoint: Sequence[str] = ()):
        self._described = described
        self._place = place
        self._entrypoint = list(entrypoint)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def text_log(self) -> str:
        return self._place.log.read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this process's own gets in, as nothing of the host's does."""
        given = self._described.get("environment", {})
        return {name: self._place.translate(str(value)) for name, value in given.items()} | {
            "PATH": self._place.path,
            "HOME": str(self._place.log.parent),
        }

    def start(self) -> None:
        """Start it; does not wait."""
        assert self._process is None
        with self._place.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(self._described["command"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._options(),
            )

    def run(self, *command: str) -> str:
        """Another command in its place, as ``docker compose run`` does; what it prints."""
        done = subprocess.run(
            self._command(command),
            capture_output=True,
            timeout=START_S,
            text=True,
            **self._options(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def healthy(self) -> bool:
        """What the health check says now."""
        kind, *command = self._described["healthcheck"]["test"]
        translated = [self._place.translate(word) for word in command]
        if kind == "CMD-SHELL":
            translated = ["/bin/sh", "-c", *translated]
        else:
            assert kind == "CMD"
            translated[0] = self._program(translated[0])
        seconds = float(self._described["healthcheck"]["timeout"].removesuffix("s"))
        try:
            done = subprocess.run(
                translated, capture_output=True, timeout=seconds, **self._options()
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def wait_until_healthy(self) -> None:
        """Raises with the end of the log when it does not get there."""
        until = time.monotonic() + START_S
        while not self.healthy():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"it is not healthy:\n{self.text_log[-4000:]}")
            time.sleep(1)

    def kill(self) -> None:
        """SIGKILL to all of it, as the end of a container is."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM to its first process; the exit code."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        return process.wait(STOP_S)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            # Some have sessions of their own: the group's end is not theirs.
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, how)
            process.wait(STOP_S)
            for left in psutil.wait_procs(children, timeout=STOP_S)[1]:
                left.kill()

    def _command(self, command: Sequence[str]) -> list[str]:
        words = [*self._entrypoint, *(self._place.translate(word) for word in command)]
        return [self._program(words[0]), *words[1:]]

    def _program(self, name: str) -> str:
        found = shutil.which(
            self._place.folder / name if "/" in name else name, path=self._place.path
        )
        assert found is not None, f"there is no {shlex.quote(name)}"
        return found

    def _options(self) -> dict[str, Any]:
        other = as_user() if self._place.as_other else {}
        return {"cwd": self._place.folder, "env": self.environment, **other}
