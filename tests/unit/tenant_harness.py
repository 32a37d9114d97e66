"""What tests of tenants over HTTP share."""

from typing import Any

from app_harness import messages

CHAT = "/v1/chat/completions"
LONG = "one two three four five six seven eight nine ten eleven twelve"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": messages(LONG)},
    "/v1/completions": {"prompt": LONG},
    "/v1/responses": {"input": LONG},
    "/v1/messages": {"messages": messages(LONG), "max_tokens": 4},
}
"""A request of every API that computes."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
