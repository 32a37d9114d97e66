"""What a client says of a gap in a request's header. Pure.

``X-Session-Expect: seconds=30; tool=pytest``: after this request's answer. With ``; session=ID``:
of another session, from now on. 0 seconds is back at once: its KV stays, or is fetched now.

Errors::

    BadExpectation    the header cannot be understood
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sessions.identity import is_session_id

HEADER: Final = "X-Session-Expect"
MAX_EXPECTED_S: Final = 7 * 86_400
MAX_TOOL: Final = 128

_PARTS = frozenset({"seconds", "tool", "session"})
_TOOL = re.compile(rf"[!-~]{{1,{MAX_TOOL}}}")


class BadExpectation(Exception):
    """The header cannot be understood."""

    param: Final = HEADER


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long a gap will last, and for what."""

    seconds: float | None = None
    """0 (at once) … ``MAX_EXPECTED_S``; None where the client does not say."""
    tool: str = ""
    """What the session will wait for; empty where the client does not say."""
    session_id: str | None = None
    """Whose gap it is; None for the request's own session."""


def expectation_of(headers: Mapping[str, str]) -> Expectation:
    """``headers`` have lower-case names. Raises BadExpectation."""
    text = headers.get(HEADER.lower(), "").strip()
    parts: dict[str, str] = {}
    for part in text.split(";") if text else ():
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _PARTS or name in parts:
            raise BadExpectation(f"{HEADER} has seconds, tool and session, each once at most.")
        parts[name] = value
    seconds, tool, session_id = (parts.get(name) for name in ("seconds", "tool", "session"))
    if text and seconds is None and tool is None:
        raise BadExpectation(f"{HEADER} needs seconds, tool or both.")
    if tool is not None and not _TOOL.fullmatch(tool):
        raise BadExpectation(f"A tool has 1 to {MAX_TOOL} printable ASCII characters.")
    if session_id is not None and not is_session_id(session_id):
        raise BadExpectation("session cannot name a session.")
    return Expectation(None if seconds is None else _seconds(seconds), tool or "", session_id)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_EXPECTED_S:
        raise BadExpectation(f"seconds must be a number from 0 to {MAX_EXPECTED_S}.")
    return seconds
