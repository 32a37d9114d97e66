"""What each API's bodies are read as: an answer, and the same answer as a client sends it back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.histories.reading import read_answer, read_request, read_stream
from app.wire import Api
from sessions.history.chain import Message

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}


def _stream(*events: dict[str, Any]) -> list[bytes]:
    raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    raw += b"data: [DONE]\n\n"
    return [raw[at : at + 7] for at in range(0, len(raw), 7)]


def _last(api: Api, *items: Any) -> Message:
    name = "input" if api is Api.RESPONSES else "messages"
    said = read_request(api, {name: [{"role": "user", "content": "q"}, *items]})
    assert said is not None
    return said.messages[-1]


CHAT_DELTAS = [
    {"role": "assistant", "content": ""},
    {"content": "He"},
    {"content": "llo "},
    {"reasoning_content": "hm"},
    {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "id": "call_1", "function": {"arguments": '{"a"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
]
MESSAGE_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}},
    {"type": "content_block_delta", "index": 0, "delta": {"thinking": "hm"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello"}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"partial_json": ": 1}"}},
    {"type": "content_block_stop", "index": 2},
]
OUTPUT: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
]


def test_chat_answers_come_back_as_they_went() -> None:
    plain = {"role": "assistant", "content": "Hello ", "tool_calls": [CALL], "annotations": None}
    streamed = read_stream(
        Api.CHAT, _stream(*({"choices": [{"index": 0, "delta": d}]} for d in CHAT_DELTAS))
    )
    assert read_answer(Api.CHAT, {"choices": [{"index": 0, "message": plain}]}) == streamed
    assert streamed[0].tool == "f"
    call = {**CALL, "function": {"name": "f", "arguments": '{ "a" : 1 }'}}
    for back in (
        {"role": "assistant", "content": "Hello", "tool_calls": [call]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}], "tool_calls": [call]},
        {**plain, "reasoning_content": "hm", "refusal": None, "function_call": None},
    ):
        assert [_last(Api.CHAT, back)] == streamed
    for other in ("Hallo", "Hello!", ""):
        assert _last(Api.CHAT, {**plain, "content": other}) != streamed[0]
    assert _last(Api.CHAT, {**plain, "tool_calls": [{**CALL, "id": "call_2"}]}) != streamed[0]


def test_every_choice_is_an_answer() -> None:
    choices = [{"index": i, "message": {"role": "assistant", "content": f"{i}"}} for i in range(3)]
    found = read_answer(Api.CHAT, {"choices": choices[::-1]})
    backs = [_last(Api.CHAT, {"role": "assistant", "content": f"{i}"}) for i in range(3)]
    assert found == backs
    assert len(read_answer(Api.CHAT, {"choices": choices * 20})) == 8


def test_anthropics_answers_come_back_as_they_went() -> None:
    content: list[Any] = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Hello", "citations": None},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]
    streamed = read_stream(Api.MESSAGES, _stream(*MESSAGE_EVENTS))
    assert read_answer(Api.MESSAGES, {"content": content}) == streamed
    assert streamed[0].tool == "f"
    marked = [*content[1:-1], {**content[-1], "cache_control": {"type": "ephemeral"}}]
    assert [_last(Api.MESSAGES, {"role": "assistant", "content": marked})] == streamed
    results = [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "seen"},
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [{"type": "text", "text": "seen", "cache_control": {"type": "ephemeral"}}],
            "cache_control": {"type": "ephemeral"},
        },
    ]
    first, second = (_last(Api.MESSAGES, {"role": "user", "content": [r]}) for r in results)
    assert first == second


def test_responses_come_back_as_they_went() -> None:
    answer = {"status": "completed", "output": OUTPUT}
    streamed = read_stream(
        Api.RESPONSES,
        _stream({"type": "response.created"}, {"type": "response.completed", "response": answer}),
    )
    assert read_answer(Api.RESPONSES, answer) == streamed
    assert streamed[0].tool == "f"
    stripped = [
        {"role": "assistant", "content": "Hello"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{ }"},
    ]
    assert [_last(Api.RESPONSES, *OUTPUT)] == [_last(Api.RESPONSES, *stripped)] == streamed
    result = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
    assert _last(Api.RESPONSES, result) == _last(
        Api.RESPONSES, {**result, "id": "x", "status": "y"}
    )


def test_the_system_prompt_is_message_0() -> None:
    for api, body in (
        (Api.MESSAGES, {"system": "s", "messages": [{"role": "user", "content": "q"}]}),
        (Api.RESPONSES, {"instructions": "s", "input": "q"}),
        (Api.CHAT, {"messages": [{"role": "system", "content": "s"}, {"role": "user"}]}),
    ):
        said = read_request(api, body)
        assert said is not None
        assert [message.role for message in said.messages] == ["system", "user"]


def test_a_completion_has_no_messages() -> None:
    assert read_request(Api.COMPLETIONS, {"prompt": "x", "messages": []}) is None
    assert read_answer(Api.COMPLETIONS, {"choices": [{"text": "x"}]}) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "index"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(Api)))
def test_any_json_can_be_read(value: Any, api: Api) -> None:
    body = dict.fromkeys(("messages", "input", "system", "tools", "instructions"), value)
    first, again = read_request(api, body), read_request(api, json.loads(json.dumps(body)))
    assert first == again
    read_answer(api, {"choices": value, "content": value, "output": value})
    read_stream(api, _stream({"choices": value, "index": 0, "delta": value, "type": value}))
    read_answer(api, {"choices": [{"message": value}], "output": [value], "content": [value]})


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.RESPONSES])
def test_what_is_too_deep_is_not_read(api: Api) -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert read_request(api, {"messages": [deep], "input": [deep]}) is None
