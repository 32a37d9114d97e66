"""Names of sessions: what an id may look like, and what the engine calls a session."""

import re
import secrets

from cache_tiers.types import SessionKey
from sessions.types import InvalidSessionId

_ID = re.compile(r"[!-.0-~]{1,256}")
"""1 to 256 printable ASCII characters, no space and no slash: an id travels unharmed in a header
and as one segment of a path."""


def new_session_id() -> str:
    """128 random bits: an id that nobody can guess."""
    return "s_" + secrets.token_urlsafe(16)


def is_session_id(text: str) -> bool:
    """Whether ``text`` can name a session. ``.`` and ``..`` cannot: a path would lose them."""
    return _ID.fullmatch(text) is not None and text not in (".", "..")


def check_session_id(text: str) -> str:
    """``text`` itself. Raises InvalidSessionId."""
    if not is_session_id(text):
        raise InvalidSessionId(
            "A session id has 1 to 256 printable ASCII characters, without spaces and slashes."
        )
    return text


def session_key(tenant: str, session_id: str) -> SessionKey:
    """The session's name inside the engine. Raises ValueError for a tenant that would let two
    sessions share a key."""
    if not tenant or "/" in tenant:
        raise ValueError("a tenant is a non-empty name without a slash")
    return SessionKey(f"{tenant}/{session_id}")


def parse_session_key(key: SessionKey) -> tuple[str, str]:
    """Tenant and session id. Raises ValueError for what ``session_key`` does not make."""
    tenant, slash, session_id = key.partition("/")
    if not tenant or not slash or not is_session_id(session_id):
        raise ValueError("not a session key")
    return tenant, session_id
