"""Which session is this request? Pure.

The first that applies names it: body ``session_id``, header ``X-Session-ID``, header
``X-Correlation-ID``, body ``prompt_cache_key``; otherwise it is a new session.

Errors::

    BadSessionName    the client named a session in a way that cannot be one
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.identity import check_session_id
from sessions.types import InvalidSessionId

ENGINE_FIELDS = ("session_id", "kv_transfer_params", "ec_transfer_params", "cache_salt")
"""Fields that tell the engine whose KV to use. The server decides that, never the client."""


class BadSessionName(Exception):
    """The client named a session in a way that cannot be one."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        """Where the name stood: a body field, or a header's name."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer."""

    session_id: str
    named: bool
    """Whether the client named it; otherwise the id is new."""


def resolve_session(
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    new_id: Callable[[], str],
) -> Resolved:
    """``headers`` have lower-case names. A field that is null or a header that is empty names
    nothing. Raises BadSessionName."""
    places = (
        ("session_id", body.get("session_id")),
        ("X-Session-ID", headers.get("x-session-id") or None),
        ("X-Correlation-ID", headers.get("x-correlation-id") or None),
        ("prompt_cache_key", body.get("prompt_cache_key")),
    )
    for param, value in places:
        if value is None:
            continue
        if not isinstance(value, str):
            raise BadSessionName(param, f"{param} must be a string.")
        try:
            check_session_id(value)
        except InvalidSessionId as error:
            raise BadSessionName(param, f"{param} cannot name a session. {error}") from None
        return Resolved(value, named=True)
    return Resolved(new_id(), named=False)


def parse_body(raw: bytes) -> dict[str, Any] | None:
    """The request's JSON object; None when it is not one, which the engine's own parser, the same
    as this one, will say in its own words."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def for_engine(raw: bytes, body: dict[str, Any]) -> bytes:
    """The request as the engine may see it: ``raw`` itself unless a field has to go."""
    kept = {name: value for name, value in body.items() if name not in ENGINE_FIELDS}
    extra = kept.get("vllm_xargs")
    if isinstance(extra, dict):
        kept["vllm_xargs"] = {k: v for k, v in extra.items() if k not in ENGINE_FIELDS}
    return raw if kept == body else json.dumps(kept).encode()
