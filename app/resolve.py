"""Which session is this request? Pure.

The first that applies names it: body ``session_id``, header ``X-Session-ID``, header
``X-Correlation-ID``, body ``prompt_cache_key``. The first two are session ids; the others, which
clients use for more than sessions, may be any text. What no client named is found by its history
(``sessions/history``), or is new.

Errors::

    BadSessionName    the client named a session in a way that cannot be one
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.identity import check_session_id, is_session_id
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
    """``headers`` have lower-case names. A field that is null, a header that is empty and a
    ``prompt_cache_key`` that is empty name nothing. Raises BadSessionName."""
    ids = (
        ("session_id", body.get("session_id")),
        ("X-Session-ID", headers.get("x-session-id") or None),
    )
    for param, value in ids:
        if value is not None:
            return Resolved(_as_it_is(param, value), named=True)
    text = headers.get("x-correlation-id") or body.get("prompt_cache_key")
    if text is not None and not isinstance(text, str):
        raise BadSessionName("prompt_cache_key", "prompt_cache_key must be a string.")
    return Resolved(_of_text(text), named=True) if text else Resolved(new_id(), named=False)


def named_in_headers(headers: Mapping[str, str]) -> str | None:
    """The session that a request's headers name, before its body is there; None for none, or none
    that can be."""
    try:
        resolved = resolve_session({}, headers, str)
    except BadSessionName:
        return None
    return resolved.session_id if resolved.named else None


def _as_it_is(param: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadSessionName(param, f"{param} must be a string.")
    try:
        return check_session_id(value)
    except InvalidSessionId as error:
        raise BadSessionName(param, f"{param} cannot name a session. {error}") from None


def _of_text(text: str) -> str:
    """``text`` itself where it can be an id, otherwise an id that is always the same for it."""
    if is_session_id(text):
        return text
    # JSON can hold half a surrogate pair.
    return "c_" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
