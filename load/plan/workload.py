"""Whose requests are simulated: a trace of any format, or generated sessions."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from load.plan.errors import CannotPlan
from load.simulate.generated import lines
from load.traces import Request, Trace, coding_agents, mooncake, own, own_requests

GENERATED = "generated"
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


def generated(seed: int, sessions: int = 64) -> Workload:
    """Sessions drawn like those of recorded coding agents (``load.simulate.generated``)."""
    return Workload(GENERATED, tuple(own_requests(lines(sessions, seed))), block_tokens=1)


def _reader(path: Path) -> Callable[[Path], Trace]:
    with path.open("rb") as file:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        try:
            for line in islice(lines, _LOOKED_AT):
                reader = _reader_of(line)
                if reader is not None:
                    return reader
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CannotPlan(f"{path} cannot be read: {error}") from None
    raise CannotPlan(f"{path} is no trace: see load/traces.py for the formats")


def _reader_of(line: bytes) -> Callable[[Path], Trace] | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if "requests" in value:
        return coding_agents
    if {"hash_ids", "input_length"} <= value.keys():
        return mooncake
    return own if {"session", "prompt"} <= value.keys() else None
