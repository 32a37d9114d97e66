"""``python -m load``: agents at work for a bounded time, against a server of its own or another's.

Exits with Locust's code: 0 only if every request succeeded.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from load.server import REPOSITORY, Sizes, make_home, prepare_model, running, valet

DRAM = 256 * 1024**2
SSD = 8 * 1024**3
_STOP_S = 60


@contextlib.contextmanager
def own_server() -> Iterator[str]:
    """A Valet whose device and DRAM are too small for all its agents; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="valet-load-") as folder:
        home = make_home(Path(folder))
        prepare_model(home)
        server = valet(home, sizes=Sizes(device_kv=256 * 1024**2), dram=DRAM, ssd=SSD)
        with running(server):
            yield server.url


def run_locust(host: str, users: int, seconds: int, more: list[str]) -> int:
    """Locust in its own process, which it monkey-patches; bounded. Returns its exit code."""
    command = [
        *(sys.executable, "-m", "locust", "-f", "load/locustfile.py", "--headless"),
        *("--host", host, "--users", str(users), "--spawn-rate", "1"),
        *("--run-time", f"{seconds}s", "--stop-timeout", str(_STOP_S), "--only-summary"),
        *more,
    ]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, check=False, timeout=seconds + 2 * _STOP_S)
    except subprocess.TimeoutExpired:
        print("Locust did not end and was killed", file=sys.stderr)
        return 1
    return done.returncode


def main() -> int:
    """Options that are not named here go to Locust: see ``load/locustfile.py``."""
    parser = argparse.ArgumentParser(prog="load", description=main.__doc__)
    parser.add_argument("--host", help="the URL of a running server; without it, one is started")
    parser.add_argument("--users", type=int, default=4, help="agents at a time (4)")
    parser.add_argument("--seconds", type=int, default=120, help="how long (120)")
    options, more = parser.parse_known_args()
    server = contextlib.nullcontext(options.host) if options.host else own_server()
    with server as host:
        return run_locust(host, options.users, options.seconds, more)


if __name__ == "__main__":
    sys.exit(main())
