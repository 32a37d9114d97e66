"""The Responses API's state, by OpenAI's SDK, unmodified: only the base URL says that this is
Valet."""

from typing import Any

import openai
import pytest

from tests.e2e.conversation import long_text
from tests.e2e.test_openai_sdk import CITY
from tests.valet_process import MODEL

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "The forecast.",
    "parameters": CITY,
    "strict": True,
}
CALL: Any = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}


def ask(client: openai.OpenAI, streamed: bool, **body: Any) -> Any:
    """A response, short and always the same, by either way."""
    body = {"model": MODEL, "max_output_tokens": 8, "temperature": 0} | body
    if not streamed:
        return client.responses.create(**body)
    events = list(client.responses.create(**body, stream=True))
    held = [event.response for event in events if hasattr(event, "response")]
    assert {response.id for response in held} == {held[-1].id}
    assert {r.previous_response_id for r in held} == {body.get("previous_response_id")}
    assert {(r.model_extra or {})["store"] for r in held} == {body.get("store", True)}
    return held[-1]


def session_of(response: Any) -> Any:
    return response.model_extra["kv_receipt"]["session_id"]


@pytest.mark.parametrize("streamed", [False, True])
def test_three_turns_with_a_tool_are_one_session(
    openai_client: openai.OpenAI, streamed: bool
) -> None:
    text = long_text(f"responses {streamed}")
    first = ask(openai_client, streamed, input=f"{text} The weather?", max_output_tokens=80, **CALL)
    calls = [item for item in first.output if item.type == "function_call"]
    assert len(calls) == 1
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "sunny"}
    second = ask(
        openai_client, streamed, input=[result], previous_response_id=first.id, tools=[TOOL]
    )
    third = ask(
        openai_client,
        streamed,
        input="And what follows?",
        previous_response_id=second.id,
        tools=[TOOL],
    )
    assert session_of(first) == session_of(second) == session_of(third)
    assert third.model_extra["kv_receipt"]["turn"] == 3
    for before, after in ((first, second), (second, third)):
        known = before.usage.input_tokens + before.usage.output_tokens
        assert after.usage.input_tokens > before.usage.input_tokens
        # All whole blocks, of 128 tokens, of the earlier prompt.
        assert after.usage.input_tokens_details.cached_tokens >= (
            before.usage.input_tokens // 128 * 128
        )
        assert after.usage.input_tokens_details.cached_tokens <= known
    items = list(openai_client.responses.input_items.list(third.id, order="asc", limit=2))
    assert [item.type for item in items][:3] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert items[-1].content[0].text == "And what follows?"
    again = openai_client.responses.retrieve(third.id)
    assert again.output_text == third.output_text
    assert again.usage == third.usage


def test_a_deleted_response_cannot_be_had_or_continued(openai_client: openai.OpenAI) -> None:
    first = ask(openai_client, False, input="Hello")
    second = ask(openai_client, False, input="Again", previous_response_id=first.id)
    openai_client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as refused:
        ask(openai_client, False, input="More", previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"
    third = ask(openai_client, False, input="More", previous_response_id=second.id)
    assert third.usage.input_tokens > second.usage.input_tokens
    with pytest.raises(openai.BadRequestError):
        openai_client.responses.cancel(third.id)


def test_what_is_not_stored_is_not_there(openai_client: openai.OpenAI) -> None:
    response = ask(openai_client, True, input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(response.id)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_goes_on(openai_client: openai.OpenAI, streamed: bool) -> None:
    talk = openai_client.conversations.create(
        items=[{"type": "message", "role": "user", "content": long_text(f"talk {streamed}")}],
        metadata={"topic": "facts"},
    )
    first = ask(openai_client, streamed, input="Which?", conversation=talk.id)
    second = ask(openai_client, streamed, input="Why?", conversation={"id": talk.id})
    assert first.conversation is not None
    assert first.conversation.id == talk.id
    assert session_of(first) == session_of(second)
    assert second.usage.input_tokens_details.cached_tokens >= 128
    items: list[Any] = list(openai_client.conversations.items.list(talk.id, order="asc", limit=3))
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]
    assert items[-1].content[0].text == second.output_text
    assert openai_client.conversations.retrieve(talk.id).metadata == {"topic": "facts"}
    new = openai_client.conversations.items.create(
        talk.id, items=[{"role": "user", "content": "One more."}]
    )
    one = openai_client.conversations.items.retrieve(new.data[0].id, conversation_id=talk.id)
    assert one == new.data[0]
    openai_client.conversations.items.delete(new.data[0].id, conversation_id=talk.id)
    renamed = openai_client.conversations.update(talk.id, metadata={"topic": "none"})
    assert renamed.metadata == {"topic": "none"}
    assert openai_client.conversations.delete(talk.id).deleted
    with pytest.raises(openai.NotFoundError):
        openai_client.conversations.retrieve(talk.id)
