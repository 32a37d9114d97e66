"""A streamed answer as its client sees it: when each piece came, and what the end said."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], float]
"""Seconds; only differences mean anything."""


class BrokenStream(Exception):
    """The answer is not a whole stream of the OpenAI form; the message says why."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """One streamed answer. Times are seconds after the request was sent."""

    text: str
    piece_times: tuple[float, ...]
    """When each piece of the answer came: at least one."""
    ended: float
    usage: dict[str, Any] | None
    receipt: dict[str, Any] | None
    """``kv_receipt``; None from a server that writes none."""

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.piece_times[0]

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between pieces that follow each other; one fewer than pieces."""
        later = self.piece_times[1:]
        return tuple(b - a for a, b in zip(self.piece_times, later, strict=False))

    @property
    def output_tokens(self) -> int:
        """As counted by the server; without its count, pieces stand for tokens."""
        return int((self.usage or {}).get("completion_tokens", len(self.piece_times)))

    @property
    def seconds_per_token(self) -> float | None:
        """Mean time of an output token after the first; None for a single one."""
        more = self.output_tokens - 1
        return (self.piece_times[-1] - self.piece_times[0]) / more if more > 0 else None


def read_stream(lines: Iterable[str | bytes], sent_at: float, clock: Clock) -> Streamed:
    """Read the lines of a stream of chat completions or completions to its end.

    ``lines`` are without their line ends and come when the network brings them. Raises
    BrokenStream for an error in the stream, for a stream without ``[DONE]`` and for one without
    an answer.
    """
    texts: list[str] = []
    times: list[float] = []
    usage: dict[str, Any] | None = None
    receipt: dict[str, Any] | None = None
    done = False
    for line in lines:
        text = line.decode() if isinstance(line, bytes) else line
        if not text.startswith("data:"):
            continue
        now = clock() - sent_at
        data = text[5:].strip()
        if data == "[DONE]":
            done = True
            continue
        event = _event(data)
        usage = event.get("usage") or usage
        receipt = event.get("kv_receipt") or receipt
        piece = _piece(event)
        if piece is not None:
            texts.append(piece)
            times.append(now)
    if not done:
        raise BrokenStream("the stream ended without [DONE]")
    if not times:
        raise BrokenStream("the stream holds no answer")
    return Streamed("".join(texts), tuple(times), clock() - sent_at, usage, receipt)


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise BrokenStream("an event is not JSON") from error
    if not isinstance(event, dict):
        raise BrokenStream("an event is not an object")
    if "error" in event:
        raise BrokenStream(f"the server reported an error: {str(event['error'])[:300]}")
    return event


def _piece(event: dict[str, Any]) -> str | None:
    """The text of an event that stands for new tokens. Chat opens with an event that only names
    the role; a completion has none such, and its tokens may have no text of their own."""
    if not event.get("choices"):
        return None
    choice = event["choices"][0]
    if "delta" not in choice:
        return str(choice.get("text", ""))
    delta = choice["delta"]
    if delta.get("tool_calls"):
        return ""
    return delta.get("content") or delta.get("reasoning") or None
