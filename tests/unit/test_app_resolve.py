"""Which session a request belongs to, and what of it the engine may see."""

import itertools
import json
import re

import pytest

from app.resolve import BadSessionName, for_engine, parse_body, resolve_session
from sessions.identity import is_session_id

PLACES = ["session_id", "x-session-id", "x-correlation-id", "prompt_cache_key"]
BODY = {"session_id", "prompt_cache_key"}


def _resolve(given: dict[str, object]) -> tuple[str, bool]:
    body = {k: v for k, v in given.items() if k in BODY}
    headers = {k: str(v) for k, v in given.items() if k not in BODY}
    resolved = resolve_session(body, headers, lambda: "new")
    return resolved.session_id, resolved.named


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PLACES, 2)))
def test_the_first_place_wins(first: str, second: str) -> None:
    assert _resolve({second: "b", first: "a"}) == ("a", True)
    assert _resolve({second: "b"}) == ("b", True)


def test_nothing_named_is_a_new_session() -> None:
    assert _resolve({}) == ("new", False)
    assert _resolve({"session_id": None, "x-session-id": ""}) == ("new", False)


NO_IDS = ["a/b", "a b", "x" * 257, "..", "\u00e9"]


@pytest.mark.parametrize("place", PLACES[:2])
def test_what_cannot_be_an_id_is_refused(place: str) -> None:
    for bad in NO_IDS:
        with pytest.raises(BadSessionName):
            _resolve({place: bad})


@pytest.mark.parametrize("place", PLACES[2:])
def test_any_text_is_one_session(place: str) -> None:
    found = [_resolve({place: text}) for text in [*NO_IDS, "\ud800"]]
    assert found == [_resolve({place: text}) for text in [*NO_IDS, "\ud800"]]
    assert len(set(found)) == len(found)
    assert all(named and is_session_id(session) for session, named in found)
    assert all(re.fullmatch("c_[0-9a-f]{32}", session) for session, _ in found)


def test_an_empty_text_names_nothing() -> None:
    assert _resolve({"x-correlation-id": "", "prompt_cache_key": ""}) == ("new", False)


@pytest.mark.parametrize("bad", [0, False, 7, [], ["a"], {}])
def test_a_cache_key_is_a_text(bad: object) -> None:
    with pytest.raises(BadSessionName) as error:
        _resolve({"prompt_cache_key": bad})
    assert error.value.param == "prompt_cache_key"


@pytest.mark.parametrize("bad", [7, True, ["s1"], {"id": "s1"}, ""])
def test_body_names_have_the_right_type(bad: object) -> None:
    with pytest.raises(BadSessionName) as error:
        _resolve({"session_id": bad, "x-session-id": "fallback"})
    assert error.value.param == "session_id"


def test_fields_that_steer_the_engine_are_removed() -> None:
    raw = json.dumps(
        {
            "model": "m",
            "session_id": "s",
            "cache_salt": None,
            "kv_transfer_params": {"x": 1},
            "vllm_xargs": {"kv_transfer_params": "y", "session_id": "t", "other": 2},
        }
    ).encode()
    seen = json.loads(for_engine(raw, parse_body(raw) or {}))
    assert seen == {"model": "m", "vllm_xargs": {"other": 2}}


def test_a_name_given_twice_does_not_slip_through() -> None:
    raw = b'{"model": "m", "cache_salt": "a", "cache_salt": "b"}'
    assert json.loads(for_engine(raw, parse_body(raw) or {})) == {"model": "m"}


def test_an_innocent_body_is_passed_on_byte_for_byte() -> None:
    raw = b'{ "model":"m",\n "temperature": 1.0, "vllm_xargs": {"a": 1} }'
    assert for_engine(raw, parse_body(raw) or {}) is raw


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"s"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_an_object_is_left_to_the_engine(raw: bytes) -> None:
    assert parse_body(raw) is None
