"""Pages of a listing. A cursor names the last item seen, so that items which come or go between
two pages neither repeat nor hide others."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from sessions.identity import is_session_id
from sessions.sealing import SealBroken, Sealer
from sessions.types import AuditRow, InvalidCursor, Session, Turn
from sessions.upkeep.events import Event

MAX_PAGE = 100
"""Items on one page at most; a larger limit is cut to it."""

_MAX_CURSOR = 512
_UNKNOWN = "The cursor is not one that this listing gave."
_MAX_NUMBER = 2**31 - 1
_KIND = "cursor"
_PADDED = 48

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and where the next page starts."""

    items: tuple[Item, ...]
    next: str | None
    """Cursor of the next page; None on the last."""

    @classmethod
    def of(cls, found: Sequence[Item], size: int, cursor: Callable[[Item], str]) -> "Page[Item]":
        """The first ``size`` of ``found``, which has one more when there is a next page."""
        items = tuple(found[:size])
        return cls(items, cursor(items[-1]) if len(found) > size else None)


def page_size(limit: int) -> int:
    """``limit`` within 1 and ``MAX_PAGE``."""
    return min(max(limit, 1), MAX_PAGE)


def session_cursor(session: Session) -> str:
    """The place after ``session``."""
    return _encode(f"{session.created_at.isoformat()} {session.id}")


def turn_cursor(turn: Turn) -> str:
    """The place after ``turn``."""
    return _encode(str(turn.number))


def after_session(cursor: str) -> tuple[datetime, str]:
    """Creation time and id of the last session seen. Raises InvalidCursor."""
    created, _, session_id = _decode(cursor).partition(" ")
    created_at = _time(created)
    if not is_session_id(session_id):
        raise InvalidCursor(_UNKNOWN)
    return created_at, session_id


def before_turn(cursor: str) -> int:
    """Number of the last turn seen. Raises InvalidCursor."""
    return _number(_decode(cursor))


class RowCursors:
    """Cursors that hold a row's number. Such a number counts what all tenants do, so it is sealed,
    for one tenant and one listing."""

    def __init__(self, secret: bytes) -> None:
        """``secret`` is the installation's."""
        self._sealer = Sealer(secret)

    def event(self, tenant: str, event: Event) -> str:
        """The place after ``event``."""
        return self._seal(tenant, "events", str(event.id))

    def before_event(self, tenant: str, cursor: str) -> int:
        """Id of the last event seen. Raises InvalidCursor."""
        return _number(self._open(tenant, "events", cursor))

    def audit(self, tenant: str, row: AuditRow) -> str:
        """The place after ``row``."""
        return self._seal(tenant, "audit", f"{row.at.isoformat()} {row.id}")

    def before_audit(self, tenant: str, cursor: str) -> tuple[datetime, int]:
        """Time and id of the last audit row seen. Raises InvalidCursor."""
        at, _, row_id = self._open(tenant, "audit", cursor).partition(" ")
        return _time(at), _number(row_id)

    def _seal(self, tenant: str, listing: str, text: str) -> str:
        # Of one length, which would tell the number's.
        sealed = self._sealer.seal(tenant, _KIND, listing, text.ljust(_PADDED).encode("ascii"))
        return base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")

    def _open(self, tenant: str, listing: str, cursor: str) -> str:
        try:
            content = self._sealer.open(tenant, _KIND, listing, _unpacked(cursor))
        except SealBroken:
            raise InvalidCursor(_UNKNOWN) from None
        return content.decode("ascii").rstrip()


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidCursor(_UNKNOWN) from None
    # The first and the last year may leave the calendar when moved to another time zone.
    if time.tzinfo is None or not 1 < time.year < 9999:
        raise InvalidCursor(_UNKNOWN)
    return time


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_NUMBER:
        raise InvalidCursor(_UNKNOWN)
    return int(text)


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii").rstrip("=")


def _decode(cursor: str) -> str:
    try:
        return _unpacked(cursor).decode("ascii")
    except UnicodeError:
        raise InvalidCursor(_UNKNOWN) from None


def _unpacked(cursor: str) -> bytes:
    if len(cursor) <= _MAX_CURSOR:
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            return base64.b64decode(padded, altchars=b"-_", validate=True)
        except (UnicodeError, binascii.Error):
            pass
    raise InvalidCursor(_UNKNOWN)
