"""Conversations to replay: real tool-calling transcripts where they are present, else our own.

A conversation is a list of turns, each the whole message list that a client would send.
"""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRANSCRIPTS = Path(__file__).parents[3] / "shared" / "traces" / "tau_airline" / "dev.jsonl.gz"

Messages = list[dict[str, Any]]
Conversation = list[Messages]


def conversations(count: int, turns: int, max_characters: int) -> list[Conversation]:
    """``count`` conversations of at most ``turns`` turns and about ``max_characters`` of text."""
    found = [c[:turns] for c in _transcripts(max_characters)] if TRANSCRIPTS.exists() else []
    long_enough = [c for c in found if len(c) >= turns][:count]
    return long_enough or [_made_up(seed, turns) for seed in range(count)]


def _transcripts(max_characters: int) -> Iterator[Conversation]:
    with gzip.open(TRANSCRIPTS, "rt") as lines:
        for line in lines:
            messages = [_clean(message) for message in json.loads(line)["messages"]]
            ends = [i for i, message in enumerate(messages) if message["role"] != "assistant"]
            turns = [messages[: end + 1] for end in ends if end > 0]
            yield [t for t in turns if len(json.dumps(t)) <= max_characters]


def _clean(message: dict[str, Any]) -> dict[str, Any]:
    """Only what the API knows, so that every server takes it."""
    kept = ("role", "content", "tool_calls", "tool_call_id", "name")
    return {key: message[key] for key in kept if message.get(key) is not None} | {
        "content": message.get("content") or ""
    }


def _made_up(seed: int, turns: int) -> Conversation:
    """A clerk and a customer, in words from a seed: long first, then a little more each turn."""
    rng = random.Random(seed)
    words = [a + b for a in ("ta", "lo", "mi", "re", "ka") for b in ("ne", "su", "vo", "li", "da")]

    def text(length: int) -> str:
        return " ".join(rng.choice(words) for _ in range(length)).capitalize() + "."

    messages: Messages = [
        {"role": "system", "content": text(600)},
        {"role": "user", "content": text(60)},
    ]
    conversation = [list(messages)]
    for _ in range(turns - 1):
        messages.append({"role": "assistant", "content": text(40)})
        messages.append({"role": "user", "content": text(50)})
        conversation.append(list(messages))
    return conversation
