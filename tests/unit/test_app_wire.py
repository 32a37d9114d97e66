"""What an answer says of its own end."""

from typing import Any

import pytest

from app.wire import Api, calls_tool

CALL = {"type": "function_call", "name": "f"}


def _choices(*reasons: str | None) -> dict[str, Any]:
    return {"choices": [{"index": i, "finish_reason": r} for i, r in enumerate(reasons)]}


@pytest.mark.parametrize(
    ("api", "value", "calls"),
    [
        (Api.CHAT, _choices("tool_calls"), True),
        (Api.CHAT, _choices("function_call"), True),
        (Api.CHAT, _choices("stop", "tool_calls"), True),
        (Api.CHAT, _choices("stop", "length"), False),
        (Api.CHAT, _choices(None), False),
        (Api.CHAT, {"choices": [], "usage": {}}, False),
        (Api.CHAT, {"error": {"message": "m"}}, False),
        (Api.COMPLETIONS, _choices("stop"), False),
        (Api.MESSAGES, {"type": "message", "stop_reason": "tool_use"}, True),
        (Api.MESSAGES, {"type": "message", "stop_reason": "end_turn"}, False),
        (Api.MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, True),
        (Api.MESSAGES, {"type": "message_delta", "delta": {"stop_reason": None}}, False),
        (Api.RESPONSES, {"output": [{"type": "message"}, CALL]}, True),
        (Api.RESPONSES, {"output": [{"type": "message"}]}, False),
        (Api.RESPONSES, {"output": None}, False),
        (Api.RESPONSES, {"type": "response.completed", "response": {"output": [CALL]}}, True),
    ],
)
def test_an_answer_says_whether_it_calls_a_tool(
    api: Api, value: dict[str, Any], calls: bool
) -> None:
    assert calls_tool(api, value) is calls
