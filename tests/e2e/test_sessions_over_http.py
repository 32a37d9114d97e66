"""Sessions as objects of the API: named, listed, parked, prefetched, deleted, shared."""

from typing import Any

import httpx
import pytest

from tests.e2e.conversation import assistant, chat, long_text, reused, user

CHAT = "/v1/chat/completions"


def first_turn(http: httpx.Client, session: str, text: str = "") -> dict[str, Any]:
    body = chat(user(text or long_text(session)), session_id=session)
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def next_turn(http: httpx.Client, session: str, before: dict[str, Any], text: str = "") -> Any:
    """The receipt of the turn after ``before``."""
    said = before["choices"][0]["message"]["content"]
    turns = [user(text or long_text(session)), assistant(said), user("Go on.")]
    answer = http.post(CHAT, json=chat(*turns, session_id=session))
    assert answer.status_code == 200, answer.text
    return answer.json()["kv_receipt"]


def get(http: httpx.Client, path: str) -> Any:
    answer = http.get(f"/v1/sessions{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(http: httpx.Client, path: str, body: Any = None) -> Any:
    answer = http.post(f"/v1/sessions{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_first_name_that_applies_is_the_sessions(http: httpx.Client) -> None:
    names = {"session_id": "by-body", "prompt_cache_key": "by-cache-key"}
    headers = {"X-Session-ID": "by-header", "X-Correlation-ID": "by-correlation"}
    heard = []
    for left_out in (None, "session_id", "X-Session-ID", "X-Correlation-ID", "prompt_cache_key"):
        names.pop(left_out or "", None)
        headers.pop(left_out or "", None)
        answer = http.post(CHAT, json=chat(user("Hi"), **names), headers=headers)
        assert answer.json()["kv_receipt"]["session_id"] == answer.headers["x-session-id"]
        heard.append(answer.headers["x-session-id"])
    assert heard[:4] == ["by-body", "by-header", "by-correlation", "by-cache-key"]
    assert heard[4].startswith("s_")
    listed = [session["id"] for session in get(http, "?limit=5")["data"]]
    assert listed == heard[::-1]


def test_turns_have_their_receipts_as_sent(http: httpx.Client) -> None:
    first = first_turn(http, "with-turns")
    second = next_turn(http, "with-turns", first)
    turns = get(http, "/with-turns/turns")["data"]
    assert [turn["kv_receipt"] for turn in turns] == [second, first["kv_receipt"]]
    assert turns[1]["finish_reason"] == "length"
    assert turns[1]["output_tokens"] == 4
    session = get(http, "/with-turns")
    assert (session["state"], session["turns"], session["running_turns"]) == ("idle", 2, 0)
    assert session["tokens"] == second["prompt_tokens"] + 4
    assert session["kv"]["tokens_by_tier"]["device"] >= 256
    idle = get(http, "?state=idle&limit=1")
    assert idle["data"][0]["id"] == "with-turns"
    older = get(http, f"?limit=1&after={idle['next']}") if idle["has_more"] else {"data": []}
    assert all(found["id"] != "with-turns" for found in older["data"])


def test_a_parked_session_is_on_ssd_alone_and_comes_back(http: httpx.Client) -> None:
    first = first_turn(http, "parked")
    parked = post(http, "/parked/park")
    assert parked["state"] == "parked"
    assert parked["kv"]["ssd_complete"]
    assert parked["kv"]["tokens_by_tier"] == {
        "device": 0,
        "dram": 0,
        "ssd": parked["kv"]["tokens"],
    }
    assert parked["kv"]["bytes_by_tier"]["ssd"] > 0
    assert get(http, "/parked")["kv"] == parked["kv"]

    receipt = next_turn(http, "parked", first)
    assert receipt["reused_tokens"]["ssd"] == reused(receipt) >= 256
    # Begun at its first byte: how far that came before the engine asked is chance.
    assert 0 <= receipt["prefetched_tokens"] <= reused(receipt)
    assert receipt["prefetched_tokens"] % 128 == 0
    assert receipt["bytes_loaded"] > 0
    assert [miss["reason"] for miss in receipt["miss"]] == ["appended"]
    assert get(http, "/parked")["state"] == "idle"


def test_a_restored_session_says_what_it_would_have_said(http: httpx.Client) -> None:
    text = long_text("exact")
    heard = []
    for park in (False, True):
        session = f"exact-{park}"
        first = first_turn(http, session, text)
        if park:
            http.delete("/v1/sessions/exact-False").raise_for_status()
            post(http, f"/{session}/park")
        said = first["choices"][0]["message"]["content"]
        turns = [user(text), assistant(said), user("Repeat the first fact.")]
        body = chat(*turns, session_id=session, max_tokens=12)
        answer = http.post(CHAT, json=body).json()
        assert answer["kv_receipt"]["reused_tokens"]["ssd" if park else "device"] >= 256
        heard.append((said, answer["choices"][0]["message"]["content"]))
    assert heard[0] == heard[1]


def test_a_prefetched_turn_says_so(http: httpx.Client) -> None:
    first = first_turn(http, "prefetched")
    post(http, "/prefetched/park")
    body = {"tier": "dram", "deadline_ms": 20_000}
    fetched = post(http, "/prefetched/prefetch", body)
    assert fetched["state"] == "idle"
    assert fetched["prefetched"]["complete"]
    kv = get(http, "/prefetched")["kv"]
    assert kv["tokens_by_tier"]["dram"] == kv["tokens"] == fetched["prefetched"]["tokens"]

    receipt = next_turn(http, "prefetched", first)
    assert receipt["prefetched_tokens"] == receipt["reused_tokens"]["ssd"] == reused(receipt) >= 256


def test_a_deleted_session_is_gone_and_so_is_its_kv(http: httpx.Client) -> None:
    first = first_turn(http, "deleted")
    deleted = http.delete("/v1/sessions/deleted")
    assert deleted.status_code == 200
    assert deleted.json()["deleted"]
    assert deleted.json()["freed"]["bytes"] > 0
    for method, path in (
        ("GET", ""),
        ("GET", "/turns"),
        ("POST", "/park"),
        ("POST", "/prefetch"),
        ("DELETE", ""),
    ):
        answer = http.request(method, f"/v1/sessions/deleted{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "session_not_found"
    assert "deleted" not in [session["id"] for session in get(http, "?limit=100")["data"]]

    receipt = next_turn(http, "deleted", first)
    assert receipt["turn"] == 1
    assert reused(receipt) == 0
    assert [miss["reason"] for miss in receipt["miss"]] == ["new_session"]


@pytest.mark.parametrize("action", ["park", "delete"])
def test_a_session_keeps_the_prefix_that_it_shares(http: httpx.Client, action: str) -> None:
    text = long_text(f"shared, then {action}")
    first_turn(http, f"leaves-{action}", text)
    stays = f"stays-{action}"
    first = first_turn(http, stays, text)
    assert reused(first["kv_receipt"]) >= 256
    if action == "park":
        post(http, f"/leaves-{action}/park")
    else:
        http.delete(f"/v1/sessions/leaves-{action}").raise_for_status()
    assert get(http, f"/{stays}")["kv"]["tokens_by_tier"]["device"] >= 256
    receipt = next_turn(http, stays, first, text)
    assert receipt["reused_tokens"]["device"] == reused(receipt) >= 256
