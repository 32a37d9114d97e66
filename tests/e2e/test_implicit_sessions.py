"""An unmodified client that resends its whole history: one session, and its KV is found."""

from typing import Any

import openai
import pytest

from tests.e2e.conversation import long_text
from tests.valet_process import MODEL

pytestmark = pytest.mark.engine

BLOCK = 128
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a fact up.",
        "parameters": {
            "type": "object",
            "properties": {"fact": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["fact"],
            "additionalProperties": False,
        },
    },
}


def ask(client: openai.OpenAI, history: list[Any], stream: bool, **more: Any) -> tuple[Any, Any]:
    """The answer's message as the client keeps it, and the last object of the answer."""
    asked: dict[str, Any] = {"model": MODEL, "messages": history, "temperature": 0}
    asked |= {"max_tokens": 40} | more
    if not stream:
        answer = client.chat.completions.create(**asked)
        return answer.choices[0].message.model_dump(exclude_none=True), answer
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    text, calls = "", dict[int, dict[str, Any]]()
    for delta in (choice.delta for chunk in chunks for choice in chunk.choices):
        text += delta.content or ""
        for piece in delta.tool_calls or ():
            call = calls.setdefault(
                piece.index, {"type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = piece.id or call.get("id")
            call["function"]["name"] += piece.function.name or ""
            call["function"]["arguments"] += piece.function.arguments or ""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return message | ({"tool_calls": list(calls.values())} if calls else {}), chunks[-1]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_tool_loop_stays_in_one_session(openai_client: openai.OpenAI, stream: bool) -> None:
    history: list[Any] = [{"role": "user", "content": long_text(f"implicit {stream}")}]
    sessions, before = set(), 0
    forced = {"type": "function", "function": {"name": "look_up"}}
    for turn in range(1, 5):
        choice: Any = forced if turn % 2 else "auto"
        message, last = ask(openai_client, history, stream, tools=[TOOL], tool_choice=choice)
        receipt = last.model_extra["kv_receipt"]
        sessions.add(receipt["session_id"])
        assert receipt["turn"] == turn
        assert "prefix_change" not in receipt
        cached = last.usage.prompt_tokens_details.cached_tokens
        # The last sampled token's KV is computed when it is an input.
        assert cached >= (before - 1) // BLOCK * BLOCK
        before = last.usage.total_tokens
        history.append(message)
        calls = message.get("tool_calls", [])
        if turn % 2:
            assert calls
        history += [
            {"role": "tool", "tool_call_id": call["id"], "content": long_text(call["id"], 12)}
            for call in calls
        ] or [{"role": "user", "content": long_text(f"turn {turn}", 12)}]
    assert len(sessions) == 1


def test_agents_with_one_system_prompt_are_kept_apart(openai_client: openai.OpenAI) -> None:
    system = {"role": "system", "content": long_text("the house")}
    sessions = []
    for task in ("Count the ships.", "Name the stars."):
        history: list[Any] = [system, {"role": "user", "content": task}]
        for turn in (1, 2):
            message, last = ask(openai_client, history, False, max_tokens=8)
            receipt = last.model_extra["kv_receipt"]
            assert receipt["turn"] == turn
            sessions.append(receipt["session_id"])
            history += [message, {"role": "user", "content": "Go on."}]
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]


def test_a_history_that_parts_is_a_fork_and_shares_its_kv(openai_client: openai.OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": long_text("parting")}]
    message, first = ask(openai_client, history, False)
    history.append(message)
    ask(openai_client, [*history, {"role": "user", "content": "Left."}], False, max_tokens=4)
    _, fork = ask(openai_client, [*history, {"role": "user", "content": "Right."}], False)
    first, fork = (answer.model_extra["kv_receipt"] for answer in (first, fork))
    assert fork["session_id"] != first["session_id"]
    assert fork["turn"] == 1
    assert sum(fork["reused_tokens"].values()) >= first["prompt_tokens"] // BLOCK * BLOCK


def test_what_changed_is_said(openai_client: openai.OpenAI) -> None:
    history: list[Any] = [
        {"role": "system", "content": "You are terse. " + long_text("changing")},
        {"role": "user", "content": "Tell me of the sea, of ships, and of the stars above it."},
    ]
    message, first = ask(openai_client, history, False)
    changed = {"role": "system", "content": "You are wordy. " + long_text("changing")}
    again = [changed, history[1], message, {"role": "user", "content": "Go on."}]
    _, last = ask(openai_client, again, False)
    before, receipt = (answer.model_extra["kv_receipt"] for answer in (first, last))
    assert receipt["session_id"] == before["session_id"]
    said = receipt["prefix_change"]
    assert said["message"] == 0
    assert 0 < said["at_token"] < 20
    assert said["unusable_tokens"] > 256
    assert receipt["miss"][-1]["reason"] == "prefix_changed"
