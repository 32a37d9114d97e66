"""Whose requests are simulated: a trace of any format, or generated sessions."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cache_tiers.returns.types import Awaits
from load.plan.errors import CannotPlan
from load.traces import Request, Runs, Trace, coding_agents, mooncake, own
from load.workload import Sender, Shape, Turn, conversation

GENERATED = "generated"
_SESSIONS = 64
_SHAPE = Shape(scale=1.0, context=200_000)
"""Coding agents as they were recorded, behind a model that reads 200,000 tokens."""
_LOOKED_AT = 100
"""First lines of a file: its format is that of the first line which has one."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of many sessions, every session's in order."""

    name: str
    requests: Sequence[Request]
    block_tokens: int
    skipped: int = 0
    """Lines that were not understood."""

    @property
    def sessions(self) -> int:
        """That people began; sub-agents are part of them."""
        return len({request.session for request in self.requests if not request.parent})


def read(path: Path) -> Workload:
    """A trace of any format that ``load.traces`` reads. Raises CannotPlan and OSError."""
    trace = _reader(path)(path)
    requests = tuple(trace)
    if not requests:
        raise CannotPlan(f"{path} has no requests")
    return Workload(path.name, requests, trace.block_tokens, trace.skipped)


def generated(seed: int) -> Workload:
    """Sessions drawn like those of recorded coding agents (``load.workload``)."""
    requests = [
        request
        for number in range(_SESSIONS)
        for request in _requests(str(number), conversation(f"{seed}/{number}", _SHAPE))
    ]
    return Workload(GENERATED, requests, block_tokens=1)


def _reader(path: Path) -> Callable[[Path], Trace]:
    with path.open("rb") as file:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        try:
            for line in islice(lines, _LOOKED_AT):
                reader = _reader_of(line)
                if reader is not None:
                    return reader
        except (EOFError, gzip.BadGzipFile) as error:
            raise CannotPlan(f"{path} cannot be read: {error}") from None
    raise CannotPlan(f"{path} is no trace: see load/traces.py for the formats")


def _reader_of(line: bytes) -> Callable[[Path], Trace] | None:
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if "requests" in value:
        return coding_agents
    if {"hash_ids", "input_length"} <= value.keys():
        return mooncake
    return own if {"session", "prompt"} <= value.keys() else None


def _requests(session: str, turns: Sequence[Turn]) -> Iterator[Request]:
    """Every token is a block, named by how many the session had before."""
    past: Runs = ()
    beginning: Runs = ()
    made = 0
    for number, turn in enumerate(turns):
        prompt = _and_then(beginning if turn.rewrites else past, made, turn.appended)
        made += turn.appended
        past = _and_then(prompt, made, turn.output)
        made += turn.output
        beginning = beginning or past
        answered_by = turns[number + 1].sender if number + 1 < len(turns) else Sender.PERSON
        yield Request(
            session=session,
            at_s=0.0,
            input_tokens=sum(count for _, count in prompt),
            output_tokens=turn.output,
            scope=session,
            runs=prompt,
            gap_s=turn.gap_s,
            awaits=Awaits.TOOL if answered_by is Sender.TOOL else Awaits.PERSON,
            answer_runs=((made - turn.output, turn.output),),
        )


def _and_then(runs: Runs, first: int, count: int) -> Runs:
    if runs and sum(runs[-1]) == first:
        return (*runs[:-1], (runs[-1][0], runs[-1][1] + count))
    return (*runs, (first, count))
