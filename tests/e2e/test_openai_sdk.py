"""OpenAI's SDK, unmodified: only the base URL says that this is Valet."""

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.e2e.conversation import long_text, user
from tests.valet_process import MODEL

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "The forecast.", "parameters": CITY},
    }
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def test_chat_has_a_session_and_a_receipt(openai_client: openai.OpenAI) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    receipt = (answer.model_extra or {})["kv_receipt"]
    assert receipt["session_id"] == raw.headers["x-session-id"]
    assert receipt["turn"] == 1
    assert receipt["prompt_tokens"] == answer.usage.prompt_tokens


@pytest.mark.parametrize("usage", [True, False])
def test_a_streams_last_chunk_has_the_receipt(openai_client: openai.OpenAI, usage: bool) -> None:
    chunks = list(
        openai_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=4,
            temperature=0,
            stream=True,
            stream_options={"include_usage": usage},
            extra_body={"ignore_eos": True},
        )
    )
    receipts = [(c.model_extra or {}).get("kv_receipt") for c in chunks]
    assert receipts[:-1] == [None] * (len(chunks) - 1)
    assert receipts[-1] is not None
    assert any(c.choices and c.choices[0].delta.content for c in chunks)
    last = chunks[-1].usage
    if usage:
        assert last is not None
        assert (last.prompt_tokens, last.completion_tokens) == (receipts[-1]["prompt_tokens"], 4)
    else:
        assert last is None


@pytest.mark.parametrize("choice", [NAMED, "required"])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_tool_that_must_be_called_gets_arguments_of_its_schema(
    openai_client: openai.OpenAI, choice: Any, temperature: float
) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What will the weather be in Paris?"}],
        tools=TOOLS,
        tool_choice=choice,
        temperature=temperature,
        seed=7,
        max_tokens=80,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    for call in calls:
        assert call.type == "function"
        assert call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), CITY)


def test_a_tool_call_streams(openai_client: openai.OpenAI) -> None:
    chunks = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What will the weather be in Paris?"}],
        tools=TOOLS,
        tool_choice=NAMED,
        temperature=0,
        max_tokens=80,
        stream=True,
    )
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert "weather" in [call.function.name for call in calls if call.function]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    jsonschema.validate(json.loads(arguments), CITY)


def test_a_tool_may_be_left_to_the_model_and_its_result_sent_back(
    openai_client: openai.OpenAI,
) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "What will the weather be in Paris?"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        tools=TOOLS,
        tool_choice="auto",
        temperature=0,
        max_tokens=8,
    )
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_several_answers_are_one_turn(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say something."}],
        n=3,
        temperature=1,
        max_tokens=3,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert (answer.model_extra or {})["kv_receipt"]["turn"] == 1


def test_an_answer_in_a_json_schema_is_valid(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Plan a trip. Answer in JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "trip", "schema": CITY}},
        temperature=1.2,
        seed=3,
        max_tokens=80,
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), CITY)


def test_logprobs(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        logprobs=True,
        top_logprobs=2,
        temperature=0,
        max_tokens=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 3
    for token in logprobs.content:
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[1].logprob <= token.logprob <= 0


def test_a_completion_of_several_prompts_sums_them(openai_client: openai.OpenAI) -> None:
    prompts = [long_text("several prompts"), "Once upon", "The sky is"]
    answer = openai_client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=2, temperature=0
    )
    assert len(answer.choices) == len(prompts)
    receipt = (answer.model_extra or {})["kv_receipt"]
    assert answer.usage is not None
    assert receipt["prompt_tokens"] == answer.usage.prompt_tokens
    assert receipt["computed_tokens"] == receipt["prompt_tokens"]
    alone = openai_client.completions.create(
        model=MODEL, prompt=prompts[1], max_tokens=2, temperature=0
    )
    assert alone.choices[0].text == answer.choices[1].text


def test_a_response(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(
        model=MODEL, input="Hello", max_output_tokens=4, temperature=0
    )
    assert answer.output_text
    assert answer.usage is not None
    receipt = (answer.model_extra or {})["kv_receipt"]
    assert receipt["prompt_tokens"] == answer.usage.input_tokens


def test_a_streamed_responses_last_event_has_the_receipt(openai_client: openai.OpenAI) -> None:
    events = list(
        openai_client.responses.create(
            model=MODEL, input=[user("Hello")], max_output_tokens=4, temperature=0, stream=True
        )
    )
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text == text != ""
    assert (last.response.model_extra or {})["kv_receipt"]["turn"] == 1


def test_errors_are_the_sdks_own(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "Hello"}]
        )
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], temperature=9
        )
    assert bad.value.type == "invalid_request_error"
    assert bad.value.param == "temperature"


async def test_the_asynchronous_client(openai_client: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(
        base_url=openai_client.base_url, api_key="any", timeout=120, max_retries=0
    ) as client:
        names = [model.id async for model in client.models.list()]
        answer = await client.chat.completions.create(
            model=names[0], messages=[{"role": "user", "content": "Hello"}], max_tokens=2
        )
    assert names == [MODEL]
    assert (answer.model_extra or {})["kv_receipt"]["turn"] == 1
