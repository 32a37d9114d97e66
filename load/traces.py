"""Recorded requests, read as they are. Two formats, JSON lines, plain or gzipped:

* coding agents (the WEKA format): a session a line, its requests within, sub-agents nested. Blocks
  are given as runs (``hash_runs``) or one by one (``hash_ids``); their ids mean something only
  within one line, and times count from the session's beginning.
* Mooncake: a request a line, with its arrival and blocks of 512 tokens that mean the same in the
  whole file. It names no sessions: a request whose prompt continues another's is taken to be the
  next turn of that session.

A reader streams: it holds a line at a time. What it does not understand it skips and counts.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

Block = tuple[str, int]
"""What a block of a prompt is called: equal blocks after equal prompts, equal names."""

_MOONCAKE_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    session: str
    at_s: float
    """Since the session's beginning, or since the trace's (see ``Trace.common_clock``)."""
    input_tokens: int
    output_tokens: int
    scope: str
    """Blocks of different scopes have nothing to do with each other."""
    runs: tuple[tuple[int, int], ...]
    """``(first, count)``: the prompt's whole blocks ``first, first + 1, …``, in order."""

    def blocks(self) -> Iterator[Block]:
        """The prompt's whole blocks."""
        for first, count in self.runs:
            for number in range(first, first + count):
                yield self.scope, number


class Trace:
    """A file of requests, in the file's order; iterate as often as needed."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[], "Parse"],
        *,
        block_tokens: int,
        common_clock: bool,
    ) -> None:
        self.path = path
        self._parse = parse
        self.block_tokens = block_tokens
        """Tokens a block."""
        self.common_clock = common_clock
        """Whether times of different sessions can be compared."""
        self.skipped = 0
        """Lines that the latest iteration did not understand, a torn end included."""

    def __iter__(self) -> Iterator[Request]:
        self.skipped = 0
        parse = self._parse()
        try:
            with _open(self.path) as lines:
                for line in lines:
                    try:
                        requests = parse(json.loads(line))
                    except (ValueError, TypeError, KeyError, AttributeError):
                        self.skipped += 1
                        continue
                    yield from requests
        except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError):
            self.skipped += 1


Parse = Callable[[Any], list[Request]]
"""The requests of one line; raises ValueError, TypeError, KeyError or AttributeError for a line of
another form."""


def coding_agents(path: Path) -> Trace:
    """A trace of the first format."""
    return Trace(path, lambda: _parse_session, block_tokens=64, common_clock=False)


def mooncake(path: Path) -> Trace:
    """A trace of the second format."""
    return Trace(path, _MooncakeParser, block_tokens=_MOONCAKE_BLOCK, common_clock=True)


def find_traces(environ: Mapping[str, str], repository: Path) -> dict[str, Trace]:
    """The traces that this machine has, by name: under ``VALET_TRACES``, else beside the
    repository."""
    root = Path(environ.get("VALET_TRACES") or repository / "../shared/traces")
    known = {
        "claude_code": coding_agents(root / "claude_code/dev.jsonl.gz"),
        "mooncake": mooncake(root / "mooncake/synthetic_trace.jsonl.gz"),
    }
    return {name: trace for name, trace in known.items() if trace.path.is_file()}


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _parse_session(line: Any) -> list[Request]:
    session = str(line["id"])
    if line.get("block_size", 64) != 64:
        raise ValueError("blocks of another size")
    return list(_session_requests(line["requests"], session, session, 0.0))


def _session_requests(
    requests: Iterable[Any], session: str, scope: str, start_s: float
) -> Iterator[Request]:
    for request in requests:
        at_s = start_s + float(request["t"])
        if request["type"] == "subagent":
            name = f"{session}/{request['agent_id']}"
            yield from _session_requests(request["requests"], name, scope, at_s)
            continue
        tokens = int(request["in"])
        if "hash_runs" in request:
            runs = tuple((int(first), max(0, int(count))) for first, count in request["hash_runs"])
        else:
            runs = _runs(int(block) for block in request["hash_ids"])
        yield Request(session, at_s, tokens, int(request["out"]), scope, _whole(runs, tokens // 64))


class _MooncakeParser:
    """Remembers where every session's latest prompt ended."""

    def __init__(self) -> None:
        self._ends: dict[int, str] = {}
        self._count = 0

    def __call__(self, line: Any) -> list[Request]:
        tokens = int(line["input_length"])
        ids = [int(block) for block in line["hash_ids"]][: tokens // _MOONCAKE_BLOCK]
        at_s, output = float(line["timestamp"]) / 1000, int(line["output_length"])
        self._count += 1
        # Ids are chained: equal ids at the end are equal prompts up to there.
        before = next((block for block in reversed(ids) if block in self._ends), None)
        session = f"request {self._count}" if before is None else self._ends.pop(before)
        if ids:
            self._ends[ids[-1]] = session
        return [Request(session, at_s, tokens, output, "", _runs(ids))]


def _runs(blocks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)


def _whole(runs: tuple[tuple[int, int], ...], blocks: int) -> tuple[tuple[int, int], ...]:
    """The first ``blocks`` of them: a last one that is not full names no reusable KV."""
    kept = []
    for first, count in runs:
        if blocks <= 0:
            break
        kept.append((first, min(count, blocks)))
        blocks -= count
    return tuple(kept)
