"""A server that is stopped finishes, leaves nothing behind, and goes on where it stopped; one that
is killed does the last."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import DRAIN_S
from tests.e2e.conversation import assistant, chat, long_text, reused, user
from tests.e2e.shared_memory import mapped, regions
from tests.valet_process import ValetProcess

CHAT = "/v1/chat/completions"
LEGAL_AT_REST = {"idle", "parked"}


def turn(http: httpx.Client, session: str, text: str, *more: Any) -> Any:
    answer = http.post(CHAT, json=chat(user(text), *more, session_id=session))
    assert answer.status_code == 200, answer.text
    return answer.json()


def restored(http: httpx.Client, session: str, text: str, before: Any) -> Any:
    """The receipt of a turn that continues ``before`` after a restart."""
    said = assistant(before["choices"][0]["message"]["content"])
    receipt = turn(http, session, text, said, user("Go on."))["kv_receipt"]
    assert receipt["turn"] == before["kv_receipt"]["turn"] + 1
    assert receipt["reused_tokens"]["ssd"] == reused(receipt) >= 256, str(receipt)
    return receipt


def outlived(children: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that is dead and only not collected by init yet does not."""

    def runs(child: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return child.status() != psutil.STATUS_ZOMBIE
        return False

    # An engine whose server is gone has 10 s to close its store.
    deadline = time.monotonic() + 30
    while any(runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [child for child in children if runs(child)]


class Stream(threading.Thread):
    """A client that reads a long answer to its end, whatever the end is."""

    def __init__(self, http: httpx.Client, session: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._http = http
        self._body = chat(
            user("Count."), session_id=session, stream=True, max_tokens=tokens, ignore_eos=True
        )
        self.events: list[str] = []
        self.first = threading.Event()
        self.broken = False

    def run(self) -> None:
        try:
            with self._http.stream("POST", CHAT, json=self._body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
                        self.first.set()
        except httpx.HTTPError:
            self.broken = True

    def begin(self) -> "Stream":
        """Returns when the first event is there."""
        self.start()
        assert self.first.wait(30)
        return self

    def end(self, timeout_s: float) -> None:
        self.join(timeout_s)
        assert not self.is_alive()


def test_a_stopped_server_finishes_and_goes_on(keyed: ValetProcess, alice: httpx.Client) -> None:
    parked = turn(alice, "stop-parked", long_text("stop-parked"))
    alice.post("/v1/sessions/stop-parked/park").raise_for_status()
    idle = turn(alice, "stop-idle", long_text("stop-idle"))
    known = alice.get("/v1/sessions").json()["data"]
    assert keyed.process is not None
    pid, children = keyed.process.pid, keyed.processes()
    shared = mapped([psutil.Process(pid), *children])
    assert shared

    stream = Stream(alice, "stop-running", tokens=16).begin()
    began = time.monotonic()
    assert keyed.stop() == 0
    assert time.monotonic() - began < DRAIN_S + 30
    stream.end(1)
    assert not stream.broken
    assert stream.events[-1] == "[DONE]"
    last = json.loads(stream.events[-2])
    assert last["choices"][0]["finish_reason"] == "length"
    assert not outlived(children)
    assert not [file for file in shared if file.exists()]
    assert not regions(pid)

    keyed.start()
    listed = {session["id"]: session for session in alice.get("/v1/sessions").json()["data"]}
    assert {session["id"] for session in known} | {"stop-running"} <= set(listed)
    assert {session["state"] for session in listed.values()} <= LEGAL_AT_REST
    assert listed["stop-parked"]["state"] == "parked"
    turns = alice.get("/v1/sessions/stop-running/turns").json()["data"]
    assert [t["kv_receipt"] for t in turns] == [last["kv_receipt"]]
    restored(alice, "stop-parked", long_text("stop-parked"), parked)
    restored(alice, "stop-idle", long_text("stop-idle"), idle)


def kill_the_server(server: ValetProcess) -> None:
    server.kill()


def kill_the_group(server: ValetProcess) -> None:
    assert server.process is not None
    children = server.processes()
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(10)
    server.process = None
    assert not outlived(children)


@pytest.mark.parametrize("kill", [kill_the_server, kill_the_group])
def test_a_killed_server_goes_on(
    keyed: ValetProcess, alice: httpx.Client, kill: Callable[[ValetProcess], None]
) -> None:
    parked_name, idle_name, killed_name = (f"{kill.__name__}-{s}" for s in ("parked", "idle", "in"))
    parked = turn(alice, parked_name, long_text(parked_name))
    alice.post(f"/v1/sessions/{parked_name}/park").raise_for_status()
    turn(alice, idle_name, long_text(idle_name))
    assert keyed.process is not None
    pid = keyed.process.pid
    shared = mapped([psutil.Process(pid), *keyed.processes()])
    assert shared

    stream = Stream(alice, killed_name, tokens=4000).begin()
    session = alice.get(f"/v1/sessions/{killed_name}").json()
    assert (session["state"], session["running_turns"]) == ("active", 1)
    kill(keyed)
    stream.end(10)
    assert stream.broken

    keyed.start()
    assert not [file for file in shared if file.exists()]
    assert not regions(pid)
    listed = {session["id"]: session for session in alice.get("/v1/sessions").json()["data"]}
    assert {parked_name, idle_name, killed_name} <= set(listed)
    assert {session["state"] for session in listed.values()} <= LEGAL_AT_REST
    assert {session["running_turns"] for session in listed.values()} == {0}
    turns = alice.get(f"/v1/sessions/{killed_name}/turns").json()["data"]
    assert [(t["turn"], t["finish_reason"], t["kv_receipt"]) for t in turns] == [(1, "abort", None)]
    assert turn(alice, killed_name, "Count.")["kv_receipt"]["turn"] == 2
    assert turn(alice, idle_name, "Hi.")["kv_receipt"]["turn"] == 2
    restored(alice, parked_name, long_text(parked_name), parked)


def test_a_stop_waits_for_a_request_up_to_the_limit(
    keyed: ValetProcess, alice: httpx.Client
) -> None:
    stream = Stream(alice, "too-long", tokens=6000).begin()
    children = keyed.processes()
    began = time.monotonic()
    assert keyed.stop() == 0
    assert DRAIN_S - 1 < time.monotonic() - began < DRAIN_S + 30
    stream.end(1)
    assert "[DONE]" not in stream.events
    assert not outlived(children)
