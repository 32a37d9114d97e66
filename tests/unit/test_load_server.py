"""Servers of benchmarks: started, stopped and never left behind. The servers here are small."""

import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from load.server import Server, ServerFailed, Sizes, bare_engine, make_home, running, valet

HEALTHY = """
import http.server, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    port = valet(tmp_path, sizes=Sizes(), dram=0, ssd=0).port
    command = [sys.executable, "-c", HEALTHY, str(port)]
    return Server(command, {}, tmp_path / "logs" / "server.log", port)


def _family(server: Server) -> list[psutil.Process]:
    assert server.process is not None
    root = psutil.Process(server.process.pid)
    return [root, *root.children()]


def test_it_runs_until_it_is_stopped_and_starts_again(server: Server) -> None:
    with running(server):
        first = _family(server)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.cpu_seconds() > 0
        server.kill()
        assert not any(process.is_running() for process in first)
        server.start()
        second = _family(server)
        assert len(second) == 2
    assert not any(process.is_running() for process in second)


def test_a_failure_of_the_caller_stops_it(server: Server) -> None:
    family: list[psutil.Process] = []

    def fail() -> None:
        with running(server):
            family.extend(_family(server))
            raise RuntimeError("the benchmark is wrong")

    with pytest.raises(RuntimeError):
        fail()
    assert family
    assert not any(process.is_running() for process in family)


def test_a_sigterm_stops_it(server: Server) -> None:
    family: list[psutil.Process] = []

    def be_stopped() -> None:
        with running(server):
            family.extend(_family(server))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        be_stopped()
    assert family
    assert not any(process.is_running() for process in family)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    server = Server(command, {}, tmp_path / "server.log", 1)
    with pytest.raises(ServerFailed, match="no such model"):
        server.start()
    assert server.process is None


def test_settings_of_the_caller_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALET_MODEL", "theirs")
    monkeypatch.setenv("PORT", "1")
    show = "import os, sys; sys.exit(str({k for k in os.environ if 'VALET' in k or k == 'PORT'}))"
    server = Server([sys.executable, "-c", show], {"VALET_X": "1"}, tmp_path / "log", 1)
    with pytest.raises(ServerFailed, match=r"\{'VALET_X'\}"):
        server.start()


def test_both_servers_are_given_the_same(tmp_path: Path) -> None:
    sizes = Sizes(device_kv=12345678, max_model_len=4096, reserved_cores=1)
    ours = valet(tmp_path, sizes=sizes, dram=1, ssd=2)
    engine = bare_engine(tmp_path, tmp_path / "model", sizes=sizes)
    assert ours.env["VALET_DEVICE_KV"] == "12345678B"
    assert set(sizes.env.items()) <= set(ours.env.items()) & set(engine.env.items())
    assert sizes.env
    assert ours.env["VALET_MAX_MODEL_LEN"] == "4096"
    assert {"--kv-cache-memory-bytes=12345678", "--max-model-len=4096"} < set(engine.command)
    assert "--host=127.0.0.1" in engine.command


def test_a_home_is_private(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "models").is_dir()
