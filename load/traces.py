"""Recorded requests, read as they are. Three formats, JSON lines, plain or gzipped:

* coding agents (the WEKA format): a session a line, its requests within, sub-agents nested. Blocks
  are given as runs (``hash_runs``) or one by one (``hash_ids``); their ids mean something only
  within one line, and times count from the session's beginning.
* Mooncake: a request a line, with its arrival and blocks of 512 tokens that mean the same in the
  whole file. It names no sessions: a request whose prompt continues another's is taken to be the
  next turn of that session.
* Valet's own: a request a line, in any order that keeps each session's. ``own`` describes it.

A reader streams: it holds a line at a time. What it does not understand it skips and counts.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cache_tiers.returns.types import Awaits

Block = tuple[str, int]
"""What a block of a prompt is called: equal blocks after equal prompts, equal names."""

Runs = tuple[tuple[int, int], ...]

_MOONCAKE_BLOCK = 512
_MOST_SECONDS = 1e10
"""Of a time, which may count from 1970, or of a gap."""
_MOST_TOKENS = 10**8
"""Of a prompt, or of an answer: more than any model takes."""
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""Raised for a line of another form."""


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
    runs: Runs
    """``(first, count)``: the prompt's whole blocks ``first, first + 1, …``, in order and in as few
    runs as can be."""
    gap_s: float | None = None
    """From the answer before to this request, as the client waited; for a sub-agent's first, from
    the answer of the turn that called it. None where it is not known: see ``at_s``."""
    awaits: Awaits = Awaits.TOOL
    """What the session waits for when this request is answered."""
    tool: str = ""
    """That was called; empty for none or an unknown one."""
    parent: str = ""
    """The session whose latest turn called this one, for a sub-agent."""
    answer_runs: Runs = ()
    """Blocks behind the prompt's when the answer is there, where that is known."""

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
                    except _MALFORMED:
                        self.skipped += 1
                        continue
                    yield from requests
        except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError):
            self.skipped += 1


Parse = Callable[[Any], list[Request]]
"""The requests of one line; raises one of ``_MALFORMED`` for a line of another form."""


def coding_agents(path: Path) -> Trace:
    """A trace of the first format."""
    return Trace(path, lambda: _parse_session, block_tokens=64, common_clock=False)


def mooncake(path: Path) -> Trace:
    """A trace of the second format."""
    return Trace(path, _MooncakeParser, block_tokens=_MOONCAKE_BLOCK, common_clock=True)


def own(path: Path) -> Trace:
    """A trace of Valet's own format. A line is an object:

    ``session``
        Name. Lines of one session are its turns, in order.
    ``at`` or ``gap_s``
        When the request comes: seconds since the trace's beginning; or seconds since the answer
        before, for who waits for answers. A session's first may leave both out.
    ``prompt``, ``output``
        Tokens of the whole prompt, and of the answer.
    ``awaits``, ``tool``
        What the turn ends in: ``"tool"`` (the default) and its name, or ``"person"``.
    ``shared``
        ``[name, tokens]``: the session begins with so many tokens of a text that others of that
        name begin with. Only the session's first line needs it.
    ``keeps``
        Tokens of what the session has so far that this prompt begins with; all of it by default,
        less where a history was rewritten.

    What a session has is its prompt and answer; a prompt is what it keeps and new tokens behind it.
    No number is negative.
    """
    return Trace(path, _OwnParser, block_tokens=1, common_clock=True)


def own_requests(lines: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
    """Of lines of Valet's own format that are in no file. Raises as ``Parse`` does."""
    parse = _OwnParser()
    for line in lines:
        yield from parse(line)


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
    requests: Iterable[Any],
    session: str,
    scope: str,
    start_s: float,
    parent: str = "",
    gap_s: float | None = None,
) -> Iterator[Request]:
    """``gap_s``: before the first of them."""
    answered_s = start_s
    for request in requests:
        at_s = start_s + _seconds(request["t"])
        if request["type"] == "subagent":
            # Its ``t`` is when it was over, where it says how long it took.
            at_s -= _seconds(float(request.get("duration_ms") or 0.0) / 1000)
            name = f"{session}/{request['agent_id']}"
            called_s = max(0.0, at_s - answered_s)
            yield from _session_requests(request["requests"], name, scope, at_s, session, called_s)
            continue
        tokens = _count(request["in"])
        if "hash_runs" in request:
            runs: Runs = ()
            for first, count in request["hash_runs"]:
                runs = joined(runs, ((int(first), _count(count)),))
        else:
            runs = _runs(int(block) for block in request["hash_ids"])
        think_s = request.get("think_time")
        yield Request(
            session,
            at_s,
            tokens,
            _count(request["out"]),
            scope,
            _whole(runs, tokens // 64),
            gap_s if gap_s is not None or think_s is None else _seconds(think_s),
            # What ends in neither is a stream whose end was not recorded: a person's text follows
            # 99 % of these.
            Awaits.TOOL if request.get("stop") == "tool_use" else Awaits.PERSON,
            parent=parent,
        )
        gap_s = None
        answered_s = at_s + _seconds(request.get("api_time") or 0.0)


class _MooncakeParser:
    """Remembers where every session's latest prompt ended."""

    def __init__(self) -> None:
        self._ends: dict[int, str] = {}
        self._count = 0

    def __call__(self, line: Any) -> list[Request]:
        tokens = _count(line["input_length"])
        ids = [int(block) for block in line["hash_ids"]][: tokens // _MOONCAKE_BLOCK]
        at_s, output = _seconds(float(line["timestamp"]) / 1000), _count(line["output_length"])
        self._count += 1
        # Ids are chained: equal ids at the end are equal prompts up to there.
        before = next((block for block in reversed(ids) if block in self._ends), None)
        session = f"request {self._count}" if before is None else self._ends.pop(before)
        if ids:
            self._ends[ids[-1]] = session
        return [Request(session, at_s, tokens, output, "", _runs(ids), awaits=Awaits.PERSON)]


class _OwnParser:
    """Gives every token a number: equal after equal beginnings."""

    def __init__(self) -> None:
        self._chains: dict[str, Runs] = {}
        self._shared: dict[str, Runs] = {}
        self._next = 0

    def __call__(self, line: Any) -> list[Request]:
        session = str(line["session"])
        prompt, output = _count(line["prompt"]), _count(line["output"])
        if not prompt:
            raise ValueError("a prompt has a token at least")
        at_s, gap_s = _seconds(line.get("at", 0.0)), line.get("gap_s")
        gap_s = None if gap_s is None else _seconds(gap_s)
        keeps, awaits = _count(line.get("keeps", _MOST_TOKENS)), Awaits(line.get("awaits", "tool"))
        before = self._chains.get(session)
        if before is None:
            before = self._beginning(line.get("shared"))
        kept = _whole(before, min(prompt, keeps))
        new = prompt - sum(count for _, count in kept)
        runs = joined(kept, self._fresh(new))
        answer = self._fresh(output)
        self._chains[session] = joined(runs, answer)
        tool = str(line.get("tool", ""))
        return [
            Request(
                session, at_s, prompt, output, "", runs, gap_s, awaits, tool, answer_runs=answer
            )
        ]

    def _beginning(self, shared: Any) -> Runs:
        if shared is None:
            return ()
        name, tokens = shared
        text = self._shared.get(str(name), ())
        missing = _count(tokens) - sum(count for _, count in text)
        if missing > 0:
            text = self._shared[str(name)] = joined(text, self._fresh(missing))
        return _whole(text, int(tokens))

    def _fresh(self, tokens: int) -> Runs:
        first = self._next
        self._next += tokens
        return ((first, tokens),) if tokens else ()


def joined(runs: Runs, more: Runs) -> Runs:
    """One behind the other; runs stay as long as can be."""
    if runs and more and sum(runs[-1]) == more[0][0]:
        return (*runs[:-1], (runs[-1][0], runs[-1][1] + more[0][1]), *more[1:])
    return (*runs, *(run for run in more if run[1]))


def _seconds(value: Any) -> float:
    """Of a line: a time or a gap."""
    seconds = float(value)
    if not 0.0 <= seconds <= _MOST_SECONDS:
        raise ValueError(f"{seconds} is no time")
    return seconds


def _count(value: Any) -> int:
    """Of a line: tokens, or blocks."""
    count = int(value)
    if not 0 <= count <= _MOST_TOKENS:
        raise ValueError(f"{count} is no number of tokens")
    return count


def _runs(blocks: Iterable[int]) -> Runs:
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)


def _whole(runs: Runs, blocks: int) -> Runs:
    """The first ``blocks`` of them: a last one that is not full names no reusable KV."""
    kept = []
    for first, count in runs:
        if blocks <= 0:
            break
        kept.append((first, min(count, blocks)))
        blocks -= count
    return tuple(kept)
