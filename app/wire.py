"""Where each API's answer holds its usage, and where a receipt goes. Pure."""

from enum import Enum
from typing import Any

from app.receipts import reused_tokens


class Api(Enum):
    """The routes whose requests are turns, by path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"

    @property
    def ends_with_done(self) -> bool:
        """Whether a stream's last event is ``[DONE]``, and the receipt goes into the one before."""
        return self in (Api.CHAT, Api.COMPLETIONS)


API_OF_PATH = {api.value: api for api in Api}

_FINAL_RESPONSES = ("response.completed", "response.incomplete")


def takes_receipt(api: Api, event: dict[str, Any]) -> bool:
    """Whether this event of a Responses or Anthropic stream is the one with the final usage."""
    if api is Api.RESPONSES:
        final = event.get("type") in _FINAL_RESPONSES
        return final and isinstance(event.get("response"), dict)
    return event.get("type") == "message_delta" and isinstance(event.get("usage"), dict)


def put_receipt(api: Api, answer: dict[str, Any], receipt: dict[str, Any]) -> None:
    """Add ``kv_receipt`` to an answer or to a stream's final event, and make its usage agree.

    The engine counts a token as cached when the request is admitted; the receipt also knows of
    the loads that failed afterwards, so it overrules. Usage that is absent stays absent.
    """
    if api is Api.RESPONSES and isinstance(answer.get("response"), dict):
        answer = answer["response"]
    answer["kv_receipt"] = receipt
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return
    cached = reused_tokens(receipt)
    if api is Api.MESSAGES:
        # Anthropic's input_tokens leaves out what was read from the cache.
        total = usage.get("input_tokens", 0) + (usage.get("cache_read_input_tokens") or 0)
        usage["input_tokens"] = max(0, total - cached)
        usage["cache_read_input_tokens"] = cached
        return
    details = "input_tokens_details" if api is Api.RESPONSES else "prompt_tokens_details"
    usage[details] = {**(usage.get(details) or {}), "cached_tokens": cached}
