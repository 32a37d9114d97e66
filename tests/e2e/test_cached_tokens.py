"""What usage calls cached is what the receipt says was reused: every API, plain and streamed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.conversation import assistant, long_text, reused, user
from tests.valet_process import MODEL, ValetProcess

TOKENS = 4


@dataclass(frozen=True)
class Answered:
    """One answer, whatever the API: prompt tokens and cached ones by usage, and the receipt."""

    text: str
    prompt: int
    cached: int
    receipt: dict[str, Any]


def chat(valet: ValetProcess, turns: list[Any], session: str, stream: bool) -> Answered:
    with openai.OpenAI(base_url=f"{valet.url}/v1", api_key="any", max_retries=0) as client:
        create = client.chat.completions.create
        asked: dict[str, Any] = {"model": MODEL, "messages": turns, "max_tokens": TOKENS}
        asked["extra_body"] = {"session_id": session}
        if stream:
            chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            last: Any = chunks[-1]
        else:
            last = create(**asked)
            text = last.choices[0].message.content
    details = last.usage.prompt_tokens_details
    return Answered(
        text, last.usage.prompt_tokens, details.cached_tokens, last.model_extra["kv_receipt"]
    )


def completions(valet: ValetProcess, turns: list[Any], session: str, stream: bool) -> Answered:
    with openai.OpenAI(base_url=f"{valet.url}/v1", api_key="any", max_retries=0) as client:
        prompt = " ".join(turn["content"] for turn in turns)
        asked: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS}
        asked["extra_body"] = {"prompt_cache_key": session}
        create = client.completions.create
        if stream:
            chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
            text = "".join(c.choices[0].text for c in chunks if c.choices)
            last: Any = chunks[-1]
        else:
            last = create(**asked)
            text = last.choices[0].text
    details = last.usage.prompt_tokens_details
    return Answered(
        text, last.usage.prompt_tokens, details.cached_tokens, last.model_extra["kv_receipt"]
    )


def responses(valet: ValetProcess, turns: list[Any], session: str, stream: bool) -> Answered:
    with openai.OpenAI(base_url=f"{valet.url}/v1", api_key="any", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "input": turns, "max_output_tokens": TOKENS}
        asked["extra_headers"] = {"X-Session-ID": session}
        if stream:
            last: Any = list(client.responses.create(**asked, stream=True))[-1].response
        else:
            last = client.responses.create(**asked)
    return Answered(
        last.output_text,
        last.usage.input_tokens,
        last.usage.input_tokens_details.cached_tokens,
        last.model_extra["kv_receipt"],
    )


def messages(valet: ValetProcess, turns: list[Any], session: str, stream: bool) -> Answered:
    with anthropic.Anthropic(base_url=valet.url, api_key="any", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "messages": turns, "max_tokens": TOKENS}
        asked["extra_headers"] = {"X-Correlation-ID": session}
        if stream:
            with client.messages.stream(**asked) as events:
                deltas = [event for event in events if event.type == "message_delta"]
                whole = events.get_final_message()
            last: Any = deltas[-1]
        else:
            last = whole = client.messages.create(**asked)
    text = "".join(block.text for block in whole.content if block.type == "text")
    usage = last.usage
    cached = usage.cache_read_input_tokens
    # Anthropic's input_tokens counts neither what was read from a cache nor what was put there.
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + cached
    return Answered(text, prompt, cached, last.model_extra["kv_receipt"])


Ask = Callable[[ValetProcess, list[Any], str, bool], Answered]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("ask", [chat, completions, responses, messages])
def test_usage_agrees_with_the_receipt(valet: ValetProcess, ask: Ask, stream: bool) -> None:
    name = f"cached-{ask.__name__}-{stream}"
    turns = [user(long_text(name))]
    first = ask(valet, turns, name, stream)
    assert first.receipt["session_id"] == name
    assert first.prompt == first.receipt["prompt_tokens"] > 300
    assert first.cached == reused(first.receipt) == 0

    turns += [assistant(first.text), user("And now?")]
    second = ask(valet, turns, name, stream)
    assert second.receipt["turn"] == 2
    assert second.prompt == second.receipt["prompt_tokens"] > first.prompt
    assert second.cached == reused(second.receipt) >= 256
    assert second.cached + second.receipt["computed_tokens"] == second.prompt
