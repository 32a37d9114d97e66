"""A client that leaves: its request ends in the engine at once, and is recorded as aborted."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.conversation import chat, long_text, user
from tests.valet_process import ValetProcess

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 4000, "ignore_eos": True}
LEFT_S = 6.0
"""How long the engine may go on for a client that has left: much less than its answer takes."""


def running(http: httpx.Client) -> int:
    """Requests in the engine, waiting ones included."""
    text = http.get("/metrics").text
    counts = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.]+)$", text, re.M)
    assert len(counts) == 2, counts
    return sum(int(float(count)) for count in counts)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether ``holds`` comes true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def asked(valet: ValetProcess, path: str, body: dict[str, Any]) -> Iterator[None]:
    """A request under way, from a client that leaves at the end of the block."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", valet.port)) as connection:
        connection.sendall(head.encode() + content)
        yield


def session(http: httpx.Client, name: str) -> Any:
    return http.get(f"/v1/sessions/{name}").json()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(user(long_text("leaves a chat")), **LONG)),
        ("/v1/messages", chat(user("Tell me a long story."), max_tokens=4000)),
    ],
    ids=["chat", "messages"],
)
def test_a_client_that_leaves(
    valet: ValetProcess, http: httpx.Client, path: str, body: dict[str, Any], stream: bool
) -> None:
    name = f"left-{path.rsplit('/')[-1]}-{stream}"
    body = body | {"session_id": name, "stream": stream}
    with valet.client() as client:
        if stream:
            with client.stream("POST", path, json=body) as answer:
                # Kept: an iterator that is let go takes its connection along.
                pieces = answer.iter_bytes()
                assert next(pieces)
                assert within(5, lambda: running(http) == 1)
        else:
            with asked(valet, path, body):
                assert within(10, lambda: running(http) == 1)
    assert within(LEFT_S, lambda: running(http) == 0)

    assert within(5, lambda: session(http, name)["running_turns"] == 0)
    turns = http.get(f"/v1/sessions/{name}/turns").json()["data"]
    assert [(turn["finish_reason"], turn["kv_receipt"]) for turn in turns] == [("abort", None)]
    assert session(http, name)["state"] == "idle"
    again = http.post(path, json=body | {"max_tokens": 2, "stream": False})
    assert again.json()["kv_receipt"]["turn"] == 2
    assert http.get("/health").status_code == 200


def test_a_client_that_leaves_before_its_body_is_whole(
    valet: ValetProcess, http: httpx.Client
) -> None:
    before = http.get("/v1/sessions").json()["data"]

    def half() -> Any:
        yield b'{"model": '
        raise ConnectionAbortedError

    with valet.client() as client, pytest.raises(ConnectionAbortedError):
        client.post(CHAT, content=half(), headers={"content-type": "application/json"})
    assert http.get("/v1/sessions").json()["data"] == before
    assert http.post(CHAT, json=chat(user("Hi"))).status_code == 200
