"""Anthropic's SDK, unmodified: only the base URL says that this is Valet."""

from typing import Any

import anthropic
import jsonschema
import pytest

from tests.e2e.test_openai_sdk import CITY
from tests.valet_process import MODEL

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOLS: list[Any] = [{"name": "weather", "description": "The forecast.", "input_schema": CITY}]


def test_a_message_has_a_session_and_a_receipt(anthropic_client: anthropic.Anthropic) -> None:
    raw = anthropic_client.messages.with_raw_response.create(
        model=MODEL, max_tokens=4, extra_body={"temperature": 0}, messages=HELLO
    )
    message = raw.parse()
    assert message.content[0].type == "text"
    assert message.usage.output_tokens == 4
    receipt = (message.model_extra or {})["kv_receipt"]
    assert receipt["session_id"] == raw.headers["x-session-id"]
    assert receipt["prompt_tokens"] == message.usage.input_tokens


def test_a_streams_message_delta_has_the_receipt(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(
        model=MODEL, max_tokens=4, extra_body={"temperature": 0}, messages=HELLO
    ) as stream:
        events = list(stream)
        final = stream.get_final_message()
    assert final.usage.output_tokens == 4
    deltas = [event for event in events if event.type == "message_delta"]
    assert (deltas[-1].model_extra or {})["kv_receipt"]["turn"] == 1
    assert events[-1].type == "message_stop"


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "weather"}, {"type": "any"}])
def test_a_tool_that_must_be_called_gets_input_of_its_schema(
    anthropic_client: anthropic.Anthropic, choice: Any
) -> None:
    message = anthropic_client.messages.create(
        model=MODEL,
        max_tokens=80,
        messages=[{"role": "user", "content": "What will the weather be in Paris?"}],
        tools=TOOLS,
        tool_choice=choice,
        extra_body={"temperature": 0},
    )
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [use.name for use in uses] == ["weather"] * len(uses) != []
    for use in uses:
        jsonschema.validate(use.input, CITY)


def test_a_tools_result_is_sent_back(anthropic_client: anthropic.Anthropic) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    conversation: list[Any] = [
        {"role": "user", "content": "What will the weather be in Paris?"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    message = anthropic_client.messages.create(
        model=MODEL, max_tokens=8, messages=conversation, tools=TOOLS
    )
    assert message.usage.output_tokens > 0


def test_tokens_are_counted_without_a_turn(anthropic_client: anthropic.Anthropic) -> None:
    count = anthropic_client.messages.count_tokens(model=MODEL, messages=HELLO)
    message = anthropic_client.messages.create(model=MODEL, max_tokens=1, messages=HELLO)
    assert count.input_tokens == message.usage.input_tokens
    assert (message.model_extra or {})["kv_receipt"]["turn"] == 1


def test_errors_are_the_sdks_own(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        anthropic_client.messages.create(model="no-such-model", max_tokens=1, messages=HELLO)
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as bad:
        anthropic_client.messages.create(model=MODEL, max_tokens=-1, messages=HELLO)
    assert bad.value.type == "invalid_request_error"
