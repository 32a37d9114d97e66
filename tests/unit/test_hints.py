"""The wire between the API process and the engine's plugin."""

import msgspec

from cache_tiers.hints import Dropped, decode_reply, encode
from cache_tiers.types import SessionKey


def test_what_a_drop_did_comes_back_as_it_was_sent() -> None:
    dropped = Dropped(SessionKey("t/s"), known=True, chunks=2, bytes=8192, key_destroyed=True)
    assert decode_reply(encode(dropped)) == dropped


def test_a_drop_that_says_nothing_of_a_key_destroyed_none() -> None:
    old = {"type": "Dropped", "session": "t/s", "known": True, "chunks": 2, "bytes": 8192}
    dropped = decode_reply(msgspec.msgpack.encode(old))
    assert isinstance(dropped, Dropped)
    assert (dropped.chunks, dropped.key_destroyed) == (2, False)
