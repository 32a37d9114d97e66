"""Tenants by their API keys: each has its own sessions and its own KV."""

from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.conftest import ALICE, BOB
from tests.e2e.conversation import chat, long_text, reused, user
from tests.valet_process import MODEL, ValetProcess

CHAT = "/v1/chat/completions"


def sessions(http: httpx.Client) -> list[str]:
    return [session["id"] for session in http.get("/v1/sessions").json()["data"]]


def receipt(http: httpx.Client, session: str, text: str) -> Any:
    answer = http.post(CHAT, json=chat(user(text), session_id=session))
    assert answer.status_code == 200, answer.text
    return answer.json()["kv_receipt"]


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/sessions", "/tokenize"])
@pytest.mark.parametrize("key", [None, "Bearer wrong", f"Basic {ALICE}", "Bearer"])
def test_a_key_is_needed(keyed: ValetProcess, path: str, key: str | None) -> None:
    with keyed.client(headers={"authorization": key} if key else {}) as http:
        answer = http.post(path, json=chat(user("Hi")))
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert http.get("/health").status_code == 200


def test_the_sdks_send_their_keys(keyed: ValetProcess) -> None:
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=ALICE, max_retries=0) as right:
        assert right.models.list().data[0].id == MODEL
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as wrong,
        pytest.raises(openai.AuthenticationError),
    ):
        wrong.models.list()
    hello: Any = [user("Hi")]
    with anthropic.Anthropic(base_url=keyed.url, api_key=BOB, max_retries=0) as right_too:
        right_too.messages.create(model=MODEL, max_tokens=1, messages=hello)
    with (
        anthropic.Anthropic(base_url=keyed.url, api_key="wrong", max_retries=0) as wrong_too,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        wrong_too.messages.create(model=MODEL, max_tokens=1, messages=hello)
    assert refused.value.type == "authentication_error"


def test_a_tenant_sees_its_own_sessions_alone(alice: httpx.Client, bob: httpx.Client) -> None:
    receipt(alice, "of-alice", "Hi")
    receipt(bob, "of-bob", "Hi")
    assert "of-alice" in sessions(alice)
    assert "of-alice" not in sessions(bob)
    assert "of-bob" not in sessions(alice)
    for method, path in (
        ("GET", ""),
        ("GET", "/turns"),
        ("POST", "/park"),
        ("POST", "/prefetch"),
        ("DELETE", ""),
    ):
        of_alice = bob.request(method, f"/v1/sessions/of-alice{path}")
        of_nobody = bob.request(method, f"/v1/sessions/of-nobody{path}")
        assert of_alice.status_code == of_nobody.status_code == 404
        assert of_alice.json() == of_nobody.json()
    assert alice.get("/v1/sessions/of-alice").json()["turns"] == 1


def test_equal_prompts_of_two_tenants_share_nothing(alice: httpx.Client, bob: httpx.Client) -> None:
    text = long_text("a secret of both")
    assert reused(receipt(alice, "one-name", text)) == 0
    alice.post("/v1/sessions/one-name/park").raise_for_status()
    first = receipt(bob, "one-name", text)
    assert (first["turn"], reused(first)) == (1, 0)
    assert [miss["reason"] for miss in first["miss"]] == ["new_session"]
    bob.delete("/v1/sessions/one-name").raise_for_status()
    again = receipt(alice, "one-name", text)
    assert (again["turn"], again["reused_tokens"]["ssd"]) == (2, reused(again))
    assert reused(again) >= 256
