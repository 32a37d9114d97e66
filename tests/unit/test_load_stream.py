"""Streams as clients see them."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from load.stream import BrokenStream, Streamed, read_stream


def _clock() -> "itertools.count[float]":
    return itertools.count(100.0, 1.0)


def _lines(*events: dict[str, Any], done: bool = True) -> Iterator[str]:
    for event in events:
        yield f"data: {json.dumps(event)}"
        yield ""
    if done:
        yield "data: [DONE]"


def _read(lines: Iterator[str] | list[bytes]) -> Streamed:
    """Every event, the [DONE] too, comes a second after the one before; sent at 99."""
    clock = _clock()
    return read_stream(lines, 99.0, lambda: next(clock))


def _chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def _completion(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text}]}


END = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    "kv_receipt": {"turn": 1},
}


def test_a_chat_begins_with_its_first_word() -> None:
    answer = _read(
        _lines(_chat(role="assistant", content=""), _chat(content="a"), _chat(content=" b"), END)
    )
    assert answer.text == "a b"
    assert answer.ttft == 2
    assert answer.piece_times == (2, 3)
    assert answer.gaps == (1,)
    assert answer.ended == 6
    assert answer.receipt == {"turn": 1}


def test_every_event_of_a_completion_is_a_token_even_without_text() -> None:
    answer = _read(_lines(_completion(""), _completion("x"), END))
    assert answer.ttft == 1
    assert answer.text == "x"


def test_a_tool_call_is_an_answer() -> None:
    call = {"index": 0, "function": {"name": "search"}}
    assert _read(_lines(_chat(role="assistant"), _chat(tool_calls=[call]), END)).ttft == 2


def test_the_server_counts_the_tokens() -> None:
    answer = _read(_lines(_completion("ab"), _completion("c"), END))
    assert answer.output_tokens == 3
    assert answer.seconds_per_token == 0.5


def test_without_usage_pieces_count() -> None:
    answer = _read(_lines(_completion("a")))
    assert answer.output_tokens == 1
    assert answer.seconds_per_token is None
    assert answer.receipt is None


def test_lines_may_be_bytes() -> None:
    lines = [line.encode() for line in _lines(_completion("ü"), END)]
    assert _read(lines).text == "ü"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        list(_lines(_completion("a"), done=False)),
        list(_lines(END)),
        ["data: {", "data: [DONE]"],
        ["data: 3", "data: [DONE]"],
        list(_lines(_completion("a"), {"error": {"message": "the engine died"}})),
    ],
)
def test_what_is_no_whole_answer_is_broken(lines: list[str]) -> None:
    with pytest.raises(BrokenStream):
        _read(iter(lines))
