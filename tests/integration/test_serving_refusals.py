"""Refusals in each API's shape, over ASGI messages as an application sends them."""

import json
from typing import Any

import pytest
from starlette.types import Message

from app.refusals import Refusals, shaped


async def sent(status: int, *bodies: bytes, kind: bytes = b"application/json") -> list[Message]:
    """What comes out when an application answers with ``bodies``."""
    out: list[Message] = []

    async def send(message: Message) -> None:
        out.append(message)

    refusals = Refusals(send, anthropic=False)
    headers = [(b"content-type", kind), (b"content-length", b"999"), (b"allow", b"GET")]
    await refusals({"type": "http.response.start", "status": status, "headers": headers})
    for i, body in enumerate(bodies):
        more = i < len(bodies) - 1
        await refusals({"type": "http.response.body", "body": body, "more_body": more})
    return out


@pytest.mark.parametrize(
    ("status", "said", "kind", "code"),
    [
        (400, {"error": {"type": "BadRequestError", "code": 400}}, "invalid_request_error", None),
        (400, {"error": {"type": "Bad Request"}}, "invalid_request_error", None),
        (404, {"detail": "Not Found"}, "not_found_error", "not_found"),
        (409, {"error": {"type": "conflict_error", "code": "busy"}}, "conflict_error", "busy"),
        (500, {"error": {"type": "InternalServerError", "code": 500}}, "api_error", None),
        (499, {"error": "nonsense"}, "invalid_request_error", "error"),
        (400, {}, "invalid_request_error", "bad_request"),
    ],
)
def test_type_and_code_are_the_apis_own(
    status: int, said: dict[str, Any], kind: str, code: str | None
) -> None:
    error = shaped(status, said, anthropic=False)["error"]
    assert error["type"] == kind
    assert isinstance(error["code"], str)
    assert code in (None, error["code"])
    assert isinstance(error["message"], str)
    assert shaped(status, said, anthropic=True) == {
        "type": "error",
        "error": {"type": kind, "message": error["message"]},
    }


def test_message_and_parameter_stay() -> None:
    said = {"error": {"message": "m", "param": "p", "type": "NotFoundError", "code": 404}}
    assert shaped(404, said, anthropic=False) == {
        "error": {"message": "m", "param": "p", "type": "not_found_error", "code": "not_found"}
    }


async def test_a_refusal_in_parts_is_reshaped_whole() -> None:
    start, body = await sent(405, b'{"detail": ', b'"Method Not Allowed"}')
    assert json.loads(body["body"])["error"]["message"] == "Method Not Allowed"
    headers = dict(start["headers"])
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert headers[b"allow"] == b"GET"
    assert start["status"] == 405


async def test_what_is_no_refusal_or_no_json_passes_untouched() -> None:
    for status, kind in ((200, b"application/json"), (404, b"text/html")):
        start, *bodies = await sent(status, b"{", b"}", kind=kind)
        assert dict(start["headers"])[b"content-length"] == b"999"
        assert [message["body"] for message in bodies] == [b"{", b"}"]
    _, body = await sent(400, b"not json")
    assert body["body"] == b"not json"
