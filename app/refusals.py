"""Whoever refuses a request, the client hears it in the shape of the API that it speaks.

The engine's own errors come in several shapes, and on Anthropic's routes partly in OpenAI's.
"""

from http import HTTPStatus
from typing import Any, Final

from starlette.types import Message, Send

from app.sse import encode_json, parse_object

_NAMES: Final[dict[int, str]] = {status: status.name.lower() for status in HTTPStatus}
_TYPES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable_error",
}


class Refusals:
    """An ASGI ``send`` that reshapes JSON answers of status 400 and above, and passes the rest."""

    def __init__(self, send: Send, *, anthropic: bool) -> None:
        self._send = send
        self._anthropic = anthropic
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_refusal(message):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._whole(self._start)

    async def _whole(self, start: Message) -> None:
        body, answer = self._body, parse_object(self._body)
        if answer is not None:
            body = encode_json(shaped(start["status"], answer, anthropic=self._anthropic))
        headers = [h for h in start["headers"] if h[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def shaped(status: int, answer: dict[str, Any], *, anthropic: bool) -> dict[str, Any]:
    """An error's body in OpenAI's shape or in Anthropic's. Pure.

    Message and parameter stay. A type or a code that is not one of these APIs' own (a class's name,
    a number) becomes what the status says.
    """
    said = answer.get("error")
    error: dict[str, Any] = said if isinstance(said, dict) else {}
    kind, code = error.get("type"), error.get("code")
    if not isinstance(kind, str) or not kind.islower() or " " in kind:
        kind = _type_of(status)
    if anthropic and status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = _type_of(status)  # OpenAI's type names what ran out
    message = error.get("message") or answer.get("detail") or "The request was refused."
    content = {"type": kind, "message": str(message)}
    if anthropic:
        return {"type": "error", "error": content}
    if not isinstance(code, str):
        code = _NAMES.get(status, "error")
    return {"error": {**content, "param": error.get("param"), "code": code}}


def _type_of(status: int) -> str:
    other = "invalid_request_error" if status < 500 else "api_error"
    return _TYPES.get(status, other)


def _is_refusal(start: Message) -> bool:
    headers: dict[bytes, bytes] = dict(start.get("headers", ()))
    is_json = headers.get(b"content-type", b"").startswith(b"application/json")
    return is_json and start["status"] >= 400
