"""Servers for benchmarks: a Valet or the bare engine, each in its own process on loopback.

Blocking, one thread. Waits are bounded: a start by ``START_S``, an end by ``STOP_S``.

Errors::

    ServerFailed    the server did not start; the message has the end of its log
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

REPOSITORY = Path(__file__).parents[1]
START_S = 300
STOP_S = 60
_POLL_S = 0.1
_PORTS = range(12_000, 32_000)
"""Below those that Linux gives to connections and to whoever asks for any."""


class ServerFailed(Exception):
    """A server did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What both kinds of server are given alike; sizes in bytes, lengths in tokens."""

    device_kv: int = 1024**3
    max_model_len: int = 8192
    reserved_cores: int | None = None
    """Cores that computing on CPU leaves alone. None for vLLM's own choice, which is one more with
    a connector than without; where so many cannot be spared it leaves none."""

    @property
    def env(self) -> dict[str, str]:
        """What vLLM takes from the environment alone."""
        if self.reserved_cores is None:
            return {}
        return {"VLLM_CPU_NUM_OF_RESERVED_CPU": str(self.reserved_cores)}


@dataclass(slots=True)
class Server:
    """A server that can be started, stopped and started again on one port."""

    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Of its root."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when the server is healthy. Raises ServerFailed; nothing runs on then."""
        if self.process is not None:
            raise ServerFailed("the server runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                env={**_environment(), **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_bytes()[-3000:].decode(errors="replace")
                raise ServerFailed(f"the server did not start:\n{tail}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left after ``STOP_S``."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the server alone; its children must find out themselves, or are killed."""
        self._end(signal.SIGKILL)

    def cpu_seconds(self) -> float:
        """Processor time that the server and its children have taken so far."""
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _processes(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _end(self, number: signal.Signals) -> None:
        process, everything = self.process, self._processes()
        if process is None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        _, alive = psutil.wait_procs(everything, timeout=STOP_S / 4)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait(STOP_S)
        self.process = None


def valet(home: Path, *, sizes: Sizes, dram: int, ssd: int) -> Server:
    """A Valet that keeps everything below ``home``; ``dram`` and ``ssd`` in bytes."""
    port = free_port()
    env = {
        **sizes.env,
        "VALET_HOME": str(home),
        "VALET_DEVICE_KV": f"{sizes.device_kv}B",
        "VALET_MAX_MODEL_LEN": str(sizes.max_model_len),
        "VALET_DRAM": f"{dram}B",
        "VALET_SSD": f"{ssd}B",
        "PORT": str(port),
    }
    command = [sys.executable, "-m", "app", "serve"]
    return Server(command, env, home / "valet.log", port)


def bare_engine(home: Path, model: Path, *, sizes: Sizes) -> Server:
    """``vllm serve`` with the flags that Valet gives its engine, less the connector."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "engine.plain_server"),
        f"--model={model}",
        f"--served-model-name={model.name}",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--kv-cache-memory-bytes={sizes.device_kv}",
        f"--max-model-len={sizes.max_model_len}",
        f"--chat-template={model / 'chat_template.jinja'}",
        "--enable-prompt-tokens-details",
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--tool-strict-level=parameter",
        "--enforce-eager",
    ]
    # Without Valet's own plugin, which an installation of Valet adds to every vLLM beside it.
    return Server(command, {**sizes.env, "VLLM_PLUGINS": ""}, home / "engine.log", port)


def make_home(folder: Path) -> Path:
    """An empty VALET_HOME in ``folder`` whose models are shared with earlier benchmarks."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    shared = REPOSITORY / "build" / "test-models"
    if not shared.is_dir():
        shared = REPOSITORY / "build" / "bench" / "models"
        shared.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(shared)
    return home


def prepare_model(home: Path) -> Path:
    """The default model's folder, made if need be (20 s). Raises ServerFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "models", "prepare"],
        cwd=REPOSITORY,
        env={**_environment(), "VALET_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=START_S,
        check=False,
    )
    if done.returncode:
        raise ServerFailed("the default model could not be made")
    return Path(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers one after another; whatever happens, SIGTERM too, none is left running.

    Main thread only.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()
        signal.signal(signal.SIGTERM, before)


def _environment() -> dict[str, str]:
    """This process's, without settings of Valet: a benchmark's server has the benchmark's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VALET_") and k != "PORT"}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that nobody is given who asks for any."""
    for port in random.Random().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed("no port is free")
