"""Ids, engine keys and cursors: everything a client can write that names something."""

import base64
import contextlib
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.types import SessionKey
from sessions.identity import (
    check_session_id,
    is_session_id,
    new_session_id,
    parse_session_key,
    session_key,
)
from sessions.lifecycle import created
from sessions.paging import RowCursors, after_session, before_turn, session_cursor
from sessions.types import InvalidCursor, InvalidSessionId
from sessions.upkeep.events import Event, EventKind

ids = st.from_regex(r"[!-.0-~]{1,256}", fullmatch=True).filter(lambda text: text not in (".", ".."))
tenants = st.text(min_size=1).filter(lambda text: "/" not in text)


@given(tenants, ids)
def test_a_key_names_one_session(tenant: str, session_id: str) -> None:
    assert parse_session_key(session_key(tenant, session_id)) == (tenant, session_id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "a b",
        " a",
        "a\n",
        "a\r\nSet-Cookie: x",
        ".",
        "..",
        "é",
        "\ud800",
        "\x00",
        "x" * 257,
    ],
)
def test_what_cannot_be_an_id(text: str) -> None:
    assert not is_session_id(text)
    with pytest.raises(InvalidSessionId) as refused:
        check_session_id(text)
    assert len(str(refused.value)) < 120, "the message must not repeat what was sent"


@pytest.mark.parametrize("text", ["s", "x" * 256, "agent-7:run_3@host", "a.b", "50%", "..."])
def test_what_can_be_an_id(text: str) -> None:
    assert check_session_id(text) == text


@pytest.mark.parametrize("key", ["", "/", "tenant", "/id", "tenant/", "tenant/a/b", "tenant/a b"])
def test_foreign_keys_are_told_apart(key: str) -> None:
    with pytest.raises(ValueError, match="not a session key"):
        parse_session_key(SessionKey(key))


@pytest.mark.parametrize("tenant", ["", "a/b"])
def test_a_tenant_that_could_reach_another(tenant: str) -> None:
    with pytest.raises(ValueError, match="slash"):
        session_key(tenant, "s")


def test_new_ids_are_long_different_and_valid() -> None:
    made = {new_session_id() for _ in range(200)}
    assert len(made) == 200
    assert all(check_session_id(one).startswith("s_") and len(one) == 24 for one in made)


@given(st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)), ids)
def test_a_cursor_is_the_place_of_its_session(at: datetime, session_id: str) -> None:
    if at.year < 9999:
        assert after_session(session_cursor(created("t", session_id, "m", at))) == (at, session_id)


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "é",
        "a",
        "A" * 600,
        _encoded("2024-01-01T00:00:00 s"),
        _encoded("0001-01-01T00:00:00+23:00 s"),
        _encoded("9999-12-31T23:59:59-23:00 s"),
        _encoded("2024-01-01T00:00:00+00:00 a/b"),
        _encoded("0"),
        _encoded("-1"),
        _encoded("9" * 40),
        _encoded("٣"),
    ],
)
def test_a_cursor_that_no_page_gave(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        after_session(cursor)
    with pytest.raises(InvalidCursor):
        before_turn(cursor)


def test_a_rows_number_is_told_to_nobody() -> None:
    cursors = RowCursors(b"s" * 32)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    few, many = (Event(n, at, EventKind.CREATED, {}) for n in (7, 2**31 - 1))
    cursor = cursors.event("t", few)
    assert cursors.before_event("t", cursor) == 7
    assert len(cursor) == len(cursors.event("t", many))
    assert cursors.event("t", few) != cursor
    assert RowCursors(b"s" * 32).before_event("t", cursor) == 7, "through a restart"
    for tenant, secret in (("other", b"s" * 32), ("t", b"x" * 32)):
        with pytest.raises(InvalidCursor):
            RowCursors(secret).before_event(tenant, cursor)
    with pytest.raises(InvalidCursor):
        cursors.before_audit("t", cursor)


@given(st.text())
def test_any_text_is_a_cursor_or_refused(cursor: str) -> None:
    rows = RowCursors(b"s" * 32)
    before_event, before_audit = partial(rows.before_event, "t"), partial(rows.before_audit, "t")
    for read in (after_session, before_turn, before_event, before_audit):
        with contextlib.suppress(InvalidCursor):
            read(cursor)
