"""Conversations long enough to leave whole blocks of KV behind, each unlike any other.

So long, too, that a server's very first load is not cut (``arbiter.SLACK``) where a prompt is
computed in half a second.
"""

from typing import Any

from tests.valet_process import MODEL


def long_text(name: str, items: int = 64) -> str:
    """Some 12 tokens an item; texts of two names differ from their first words on."""
    facts = " ".join(f"Fact {i} says that {i * 37 % 101} follows." for i in range(items))
    return f"Notes of {name}. {facts}"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request of the chat API, its answer short and always the same."""
    body = {"model": MODEL, "messages": list(messages), "max_tokens": 4, "temperature": 0}
    return body | more


def reused(receipt: dict[str, Any]) -> int:
    """Prompt tokens that were not computed."""
    return sum(receipt["reused_tokens"].values())
