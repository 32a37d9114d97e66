"""What sessions cost a request, with a million of them in the database.

Two servers run the same engine, a fake one whose tokens take ten milliseconds each: one with
sessions, one with ``VALET_SESSIONS=off``. The same conversations, resent whole and named by nothing
but their history, go to both, one request at a time, with short pauses, in the order A B B A. A
figure is the difference of the two servers' medians (and 99th percentiles) of one round; the table
has the median of the rounds, and the least and the most.
"""

import argparse
import asyncio
import http.client
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from load.environment import describe
from load.report import Spread, percentile, table, write_json
from load.server import REPOSITORY, Server, free_port
from sessions.database import open_database
from tests.benchmarks.crowd import fill_postgresql, fill_sqlite

SESSIONS: Final = 1_000_000
ROUNDS: Final = 5
REQUESTS: Final = 400
CONVERSATIONS: Final = 20
QUICK: Final = 20
PAUSE_S: Final = 0.02
"""No agent asks again within a millisecond, where the record of its last turn is being written."""
WANTED_MS: Final = {"p50": 1.0, "p99": 5.0}
RESULT: Final = REPOSITORY / "build" / "bench" / "sessions.json"
MODEL: Final = "fake"
TENANT: Final = "local"


@dataclass(slots=True)
class Conversation:
    """One agent's history, as one server answered it."""

    name: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, client: http.client.HTTPConnection, stream: bool) -> "Timed":
        """One more turn."""
        question = f"{self.name}, question {len(self.messages)}: " + "what of it? " * 20
        self.messages.append({"role": "user", "content": question})
        body = {"model": MODEL, "messages": self.messages, "stream": stream, "max_tokens": 8}
        raw = json.dumps(body).encode()
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        client.request("POST", "/v1/chat/completions", raw, {"content-type": "application/json"})
        answer = client.getresponse()
        first = answer.read(1)
        ttft = time.perf_counter() - began
        text = (first + answer.read()).decode()
        total = time.perf_counter() - began
        assert answer.status == http.client.OK, text
        said = _streamed(text) if stream else json.loads(text)["choices"][0]["message"]["content"]
        self.messages.append({"role": "assistant", "content": said})
        return Timed(ttft * 1e3, total * 1e3, answer.getheader("x-session-id"))


@dataclass(frozen=True, slots=True)
class Timed:
    """Milliseconds to the first byte of the body and to its last, and the session it was in."""

    first: float
    whole: float
    session: str | None


def _streamed(text: str) -> str:
    events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event).get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def one_round(
    on: http.client.HTTPConnection, off: http.client.HTTPConnection, number: int, requests: int
) -> dict[str, float]:
    """The differences of one round, in milliseconds."""
    pairs = [
        (Conversation(f"{number}-{i}"), Conversation(f"{number}-{i}")) for i in range(CONVERSATIONS)
    ]
    samples: dict[str, tuple[list[float], list[float]]] = {"plain": ([], []), "stream": ([], [])}
    kept: list[str | None] = [None] * CONVERSATIONS
    for index in range(requests):
        which, stream = index % CONVERSATIONS, index // CONVERSATIONS % 2 == 1
        with_sessions, without = pairs[which]
        if index % 2:
            bare, full = without.ask(off, stream), with_sessions.ask(on, stream)
        else:
            full, bare = with_sessions.ask(on, stream), without.ask(off, stream)
        assert full.session is not None
        assert kept[which] in (None, full.session), "a conversation lost its session"
        kept[which] = full.session
        times = samples["stream" if stream else "plain"]
        times[0].append(full.first if stream else full.whole)
        times[1].append(bare.first if stream else bare.whole)
    found = {}
    for kind, (full_ms, bare_ms) in samples.items():
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            found[f"{kind} {label}"] = _of(full_ms, share) - _of(bare_ms, share)
            found[f"{kind} {label} without"] = _of(bare_ms, share)
    return found


def _of(samples: list[float], share: float) -> float:
    value = percentile(samples, share)
    assert value is not None
    return value


@contextmanager
def serving(
    folder: Path, name: str, env: Mapping[str, str]
) -> Iterator[http.client.HTTPConnection]:
    """A running server and a connection to it."""
    home, port = folder / name, free_port()
    home.mkdir(mode=0o700)
    settings = {"VALET_HOME": str(home), "PORT": str(port), "VALET_LOG_LEVEL": "warning", **env}
    command = [sys.executable, "-m", "tests.benchmarks.sessions_server"]
    server = Server(command, settings, folder / f"{name}.log", port)
    server.start()
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.connect()
        # A body is sent behind its headers: it must not wait for their acknowledgement.
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        server.stop()


async def _prepare(url: str, sessions: int) -> float:
    """Migrate and fill a database; seconds it took."""
    began = time.perf_counter()
    database = await open_database(url)
    await database.close()
    if url.startswith("sqlite"):
        fill_sqlite(Path(url.partition(":///")[2]), sessions, TENANT, MODEL)
    else:
        await fill_postgresql(url.replace("+asyncpg", ""), sessions, TENANT, MODEL)
    return time.perf_counter() - began


def measure(url: str, folder: Path, sessions: int, rounds: int, requests: int) -> dict[str, Any]:
    """All rounds on one database."""
    filled_s = asyncio.run(_prepare(url, sessions))
    with (
        serving(folder, "on", {"VALET_DATABASE_URL": url}) as on,
        serving(folder, "off", {"VALET_SESSIONS": "off"}) as off,
    ):
        one_round(on, off, 0, 2 * CONVERSATIONS)
        found = [one_round(on, off, number, requests) for number in range(1, rounds + 1)]
    spreads = {name: Spread.of([r[name] for r in found]) for name in found[0]}
    return {
        "sessions": sessions,
        "filled_s": round(filled_s, 1),
        "ms": {name: asdict(spread) for name, spread in spreads.items() if spread is not None},
    }


def main() -> None:
    """Measure, print, write ``build/bench/sessions.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="a round and server")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the sessions")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database to measure on too")
    args = parser.parse_args()
    sessions = args.sessions // QUICK if args.quick else args.sessions
    results = {}
    with tempfile.TemporaryDirectory() as name:
        urls = {"sqlite": f"sqlite+aiosqlite:///{name}/sqlite.db"}
        if args.postgresql:
            urls["postgresql"] = args.postgresql
        for kind, url in urls.items():
            folder = Path(name, kind)
            folder.mkdir()
            results[kind] = measure(url, folder, sessions, args.rounds, args.requests)
    rows = [
        [kind, label, f"{ms['median']:.2f}", f"{ms['low']:.2f} … {ms['high']:.2f}", _wanted(label)]
        for kind, result in results.items()
        for label, ms in result["ms"].items()
    ]
    print(table(["database", "added, ms", "median", "rounds", "wanted"], rows))
    write_json(RESULT, {"environment": describe(), "results": results})


def _wanted(label: str) -> str:
    limit = WANTED_MS.get(label.rpartition(" ")[2])
    return "" if limit is None else f"≤ {limit:g}"


if __name__ == "__main__":
    main()
