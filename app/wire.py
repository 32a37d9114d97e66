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

_WITH_RESPONSE = frozenset(
    f"response.{state}".encode()
    for state in ("queued", "created", "in_progress", "completed", "incomplete", "failed")
)
_HOUR_S = 3600
_CALLING = ("tool_calls", "function_call")
_FINAL_RESPONSES = ("response.completed", "response.incomplete")


def takes_receipt(api: Api, event: dict[str, Any]) -> bool:
    """Whether this event of a Responses or Anthropic stream is the one with the final usage."""
    if api is Api.RESPONSES:
        final = event.get("type") in _FINAL_RESPONSES
        return final and isinstance(event.get("response"), dict)
    return event.get("type") == "message_delta" and isinstance(event.get("usage"), dict)


def holds_response(name: bytes) -> bool:
    """Whether events of this name in a Responses stream hold the response object."""
    return name in _WITH_RESPONSE


def calls_tool(api: Api, value: dict[str, Any]) -> bool:
    """Whether an answer, or a stream's event, says that it ends with a call of a tool."""
    if api is Api.MESSAGES:
        ending = value.get("delta") or value
        return bool(ending.get("stop_reason") == "tool_use")
    if api is Api.RESPONSES:
        output = answer_in(api, value).get("output") or ()
        return any(item.get("type") == "function_call" for item in output)
    choices = value.get("choices") or ()
    return any(choice.get("finish_reason") in _CALLING for choice in choices)


def put_receipt(api: Api, answer: dict[str, Any], receipt: dict[str, Any], chunk: int = 1) -> None:
    """Add ``kv_receipt`` to an answer or to a stream's final event, and make its usage agree.
    ``chunk`` is how many tokens of KV are kept together.

    The engine counts a token as cached when the request is admitted; the receipt also knows of
    the loads that failed afterwards, so it overrules. Usage that is absent stays absent.
    """
    answer = answer_in(api, answer)
    answer["kv_receipt"] = receipt
    put_cached(api, answer, reused_tokens(receipt))
    if api is Api.MESSAGES and isinstance(answer.get("usage"), dict):
        _put_written(answer, receipt, chunk)


def answer_in(api: Api, value: dict[str, Any]) -> dict[str, Any]:
    """The answer itself: of an event of a Responses stream, the response that it holds."""
    response = value.get("response") if api is Api.RESPONSES else None
    return response if isinstance(response, dict) else value


def put_cached(api: Api, answer: dict[str, Any], cached: int) -> None:
    """Make the usage of an answer say that ``cached`` prompt tokens were not computed."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return
    if api is Api.MESSAGES:
        # Anthropic's input_tokens leaves out what was read from the cache.
        names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        total = sum(usage.get(name) or 0 for name in names)
        usage["input_tokens"] = max(0, total - cached)
        usage["cache_creation_input_tokens"] = 0
        usage["cache_read_input_tokens"] = cached
        return
    details = "input_tokens_details" if api is Api.RESPONSES else "prompt_tokens_details"
    usage[details] = {**(usage.get(details) or {}), "cached_tokens": cached}


def _put_written(answer: dict[str, Any], receipt: dict[str, Any], chunk: int) -> None:
    """Of an Anthropic answer: how much was written under the lease that ``cache_control`` asked
    for, whole chunks only, and with which life. Like what was read, it is no input."""
    usage, lease = answer["usage"], receipt.get("lease") or {}
    written = 0
    if lease.get("granted"):
        # The last token is computed each time: a chunk that ends with it is not read by its like.
        kept = (receipt["prompt_tokens"] - 1) // chunk * chunk
        written = min(max(0, kept - reused_tokens(receipt)), usage["input_tokens"])
    usage["input_tokens"] -= written
    usage["cache_creation_input_tokens"] = written
    if answer.get("type") == "message":
        hour = lease.get("ttl_s") == _HOUR_S
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": 0 if hour else written,
            "ephemeral_1h_input_tokens": written if hour else 0,
        }
