"""Tenants try to cross, and an operator makes and ends their keys beside a running server."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import OPERATOR
from tests.e2e.conversation import chat, long_text, reused, user
from tests.valet_process import MODEL, REPOSITORY, ValetProcess

FOLLOWS_S = 2.0
"""How soon a running server knows of a change."""
GRACE_S = 8.0
"""What a busy machine may add."""
OVERLAP_S = 12


# --- keys of the command line, on a server with the fake engine ----------------------------------


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValetProcess]:
    """A server without keys, of this test alone."""
    home = tmp_path_factory.mktemp("tenants") / "home"
    with ValetProcess(home, program=("tests.clients.fake_server",)) as process:
        yield process


def valet(server: ValetProcess, *arguments: str) -> str:
    """What a command says, in another process on the same home."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VALET_")}
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=REPOSITORY,
        env=clean | {"VALET_HOME": str(server.home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


def status(server: ValetProcess, key: str = "", path: str = "/v1/sessions") -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with server.client(headers=headers) as http:
        return http.get(path).status_code


def soon(check: Callable[[], bool], later_s: float = 0.0) -> float:
    """Seconds until ``check`` is true; fails when it does not become so, ``later_s`` later."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < later_s + FOLLOWS_S + GRACE_S
        time.sleep(0.05)
    return time.monotonic() - began


def test_keys_come_and_go_while_the_server_runs(server: ValetProcess) -> None:
    assert status(server) == 200
    first = valet(server, "keys", "add", "alice", "--label", "laptop")
    soon(lambda: status(server) == 401)
    assert status(server, first) == 200
    assert status(server, first[:-1]) == 401
    # The bearer of a database's key is its tenant by name.
    with server.client(headers={"x-api-key": first}) as http:
        assert http.get("/v1/tenant").json()["name"] == "alice"

    rotated = time.monotonic()
    second = valet(server, "keys", "rotate", first.split("_")[1], "--overlap", f"{OVERLAP_S}s")
    soon(lambda: status(server, second) == 200)
    still = status(server, first)
    if time.monotonic() - rotated < OVERLAP_S:
        assert still == 200
    soon(lambda: status(server, first) == 401, OVERLAP_S)
    assert status(server, second) == 200

    valet(server, "keys", "revoke", second.split("_")[1])
    soon(lambda: status(server, second) == 401)
    assert status(server) == 401
    log = server.text_log()
    assert first not in log
    assert second not in log


def test_revoked_stays_revoked_after_a_restart(server: ValetProcess) -> None:
    key = valet(server, "keys", "add", "alice")
    valet(server, "keys", "revoke", key.split("_")[1])
    server.stop()
    server.start()
    assert status(server, key) == 401
    assert status(server) == 401


def test_quotas_are_followed_too(server: ValetProcess) -> None:
    key = valet(server, "keys", "add", "alice")
    valet(server, "tenants", "set", "alice", "--requests-per-minute", "100")
    with server.client(headers={"x-api-key": key}) as http:

        def limit() -> str | None:
            return http.get("/v1/models").headers.get("x-ratelimit-limit-requests")

        soon(lambda: limit() == "100")
        valet(server, "tenants", "set", "alice", "--requests-per-minute", "2")
        soon(lambda: http.get("/v1/models").status_code == 429)
        answer = http.get("/v1/models")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 30


# --- crossing, on the real engine ----------------------------------------------------------------


TEXT = long_text("what two tenants both ask")
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(user(TEXT), max_tokens=1),
    "/v1/completions": {"model": MODEL, "prompt": TEXT, "max_tokens": 1},
    "/v1/responses": {"model": MODEL, "input": TEXT, "max_output_tokens": 16, "store": False},
    "/v1/messages": {"model": MODEL, "messages": [user(TEXT)], "max_tokens": 1},
}
WISHES: list[dict[str, Any]] = [
    {"cache_salt": "shared"},
    {"vllm_xargs": {"cache_salt": "shared", "session_id": "x"}},
    {"kv_transfer_params": {"cache_salt": "shared", "do_remote_prefill": True}},
    {"metadata": {"cache_salt": "shared"}, "user": "shared"},
]


@pytest.mark.engine
@pytest.mark.parametrize("path", REQUESTS)
def test_equal_prompts_meet_nowhere_whatever_the_client_sends(
    alice: httpx.Client, bob: httpx.Client, path: str
) -> None:
    text = f"{path} {TEXT}"
    field = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(path, "messages")
    given: Any = [user(text)] if field == "messages" else text
    body = REQUESTS[path] | {field: given}

    def computed(http: httpx.Client, name: str, wish: dict[str, Any]) -> tuple[int, int]:
        """Tokens reused, by the receipt and by the API's own usage."""
        answer = http.post(path, json=body | wish, headers={"x-session-id": name})
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        cached = details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0
        return reused(answer.json()["kv_receipt"]), cached

    assert computed(alice, "one", WISHES[0]) == (0, 0)
    assert computed(bob, "one", WISHES[0]) == (0, 0)
    # Within a tenant a wish changes nothing: the same text is known, whatever salt was asked for.
    for number, wish in enumerate(WISHES):
        tokens, cached = computed(bob, f"other-{number}", wish)
        assert tokens == cached
        assert tokens >= 256


@pytest.mark.engine
def test_metrics_need_the_operators_key(
    keyed: ValetProcess, alice: httpx.Client, bob: httpx.Client
) -> None:
    assert alice.get("/metrics").status_code == bob.get("/metrics").status_code == 401
    with keyed.client(headers={"authorization": f"Bearer {OPERATOR}"}) as operator:
        assert "vllm:num_requests_running" in operator.get("/metrics").text
        assert operator.get("/v1/sessions").status_code == 401


@pytest.mark.engine
def test_usage_is_ones_own(alice: httpx.Client, bob: httpx.Client) -> None:
    before = bob.get("/v1/tenant").json()
    alice.post(
        "/v1/chat/completions", json=chat(user(long_text("only alice's")))
    ).raise_for_status()
    mine, others = alice.get("/v1/tenant").json(), bob.get("/v1/tenant").json()
    assert mine["name"] != others["name"]
    assert mine["bytes_by_tier"]["dram"] > 0
    assert mine["served"]["turns"] > 0
    assert others["served"] == before["served"]
