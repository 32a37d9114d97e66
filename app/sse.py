"""Server-sent events, cut out of a byte stream and put back. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Any

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event, its closing blank line included."""

    raw: bytes

    @property
    def name(self) -> bytes:
        """The ``event`` field; empty where there is none in front."""
        line, _, _ = self.raw.partition(b"\n")
        return line[6:].strip() if line.startswith(b"event:") else b""

    @property
    def data(self) -> bytes:
        """The ``data`` field; empty for a comment or an event without one."""
        lines = (line for line in self.raw.splitlines() if line.startswith(b"data:"))
        return b"\n".join(line[5:].removeprefix(b" ") for line in lines)

    def json(self) -> dict[str, Any] | None:
        """The data as a JSON object; None when it is not one."""
        return parse_object(self.data)

    def with_json(self, value: dict[str, Any]) -> "Event":
        """The same event with other data."""
        other = [line for line in self.raw.splitlines() if line and not line.startswith(b"data:")]
        return Event(b"\n".join([*other, b"data: " + encode_json(value)]) + b"\n\n")


class EventSplitter:
    """Cuts a stream into events, wherever its chunks begin and end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        data = self._rest + chunk
        events: list[Event] = []
        start = 0
        for end in _BLANK_LINE.finditer(data):
            events.append(Event(data[start : end.end()]))
            start = end.end()
        self._rest = data[start:]
        return events

    def rest(self) -> bytes:
        """What no blank line ended; the splitter is empty afterwards."""
        rest, self._rest = self._rest, b""
        return rest


def parse_object(data: bytes) -> dict[str, Any] | None:
    """``data`` as a JSON object, or None."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def encode_json(value: dict[str, Any]) -> bytes:
    """Compact UTF-8, which cannot hold the lone half of a surrogate pair: such an object, which
    a model can write, is escaped to ASCII."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
