"""Chunks of a public prefix on SSD: no session's, whichever writes them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey, SessionKey, Standing, Tier
from engine.core_plugin.owner import Owner
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import OffloadKey, ReqContext
from tests.integration.test_tier_manager import CHUNK, Tiers, content, key

PUBLIC, OWN = 1, 2
WRITER = SessionKey("one/writer")


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    made = Tiers(tmp_path / "store")
    yield made
    made.close()


def turn(tiers: Tiers, session: SessionKey) -> SessionChunks:
    """A turn of a session that begins with the public chunk; everything is written."""
    sessions = SessionChunks(tiers.manager, 1, 16)
    chunks = [key(PUBLIC), key(OWN)]
    context = ReqContext(req_id=session)
    context.set_state(Owner(session))
    tiers.manager.on_new_request(context)
    output = tiers.manager.prepare_store([OffloadKey(chunk) for chunk in chunks], context)
    assert output is not None
    for row, number in zip(output.store_spec.block_ids, (PUBLIC, OWN), strict=True):
        tiers.rows[row] = np.frombuffer(content(number), dtype=np.int8)
    tiers.manager.complete_store(output.keys_to_store, context)
    tiers.manager.on_request_finished(context)
    tiers.settle()
    sessions.remember(session, None, chunks, [], alone=True)
    return sessions


def drop(tiers: Tiers, sessions: SessionChunks, session: SessionKey) -> list[ChunkKey]:
    held, orphans = sessions.forget(session)
    shared = [chunk for chunk in held if chunk not in orphans]
    assert tiers.ssd.drop(session, orphans, shared).result(5), "the session had a key"
    return orphans


def outcome(tiers: Tiers, number: int) -> ReadOutcome:
    into = bytearray(CHUNK)
    (result,) = tiers.ssd.store.get([key(number)], [memoryview(into)])
    assert result is not ReadOutcome.OK or bytes(into) == content(number)
    return result


def test_who_wrote_it_cannot_take_it_away(tiers: Tiers) -> None:
    tiers.manager.public.add(key(PUBLIC))
    sessions = turn(tiers, WRITER)
    assert drop(tiers, sessions, WRITER) == [key(OWN)]
    assert tiers.dram.has(key(PUBLIC))
    assert not tiers.dram.has(key(OWN))
    assert outcome(tiers, PUBLIC) is ReadOutcome.OK
    assert outcome(tiers, OWN) is ReadOutcome.MISSING
    # What its tenant's other sessions hold is kept under a group key, of which this needs none.
    assert not tiers.ssd.store.shred(WRITER)
    assert outcome(tiers, PUBLIC) is ReadOutcome.OK


def test_what_is_not_public_goes_with_its_session(tiers: Tiers) -> None:
    """The same turn without a public prefix."""
    sessions = turn(tiers, WRITER)
    assert drop(tiers, sessions, WRITER) == [key(PUBLIC), key(OWN)]
    assert outcome(tiers, PUBLIC) is ReadOutcome.MISSING
    assert not tiers.dram.has(key(PUBLIC))


def test_parking_and_edits_leave_it_where_it_is(tiers: Tiers) -> None:
    tiers.manager.public.add(key(PUBLIC))
    sessions = turn(tiers, WRITER)
    sessions.park(WRITER)
    assert tiers.dram.has(key(PUBLIC))
    assert not tiers.dram.has(key(OWN))
    both = (key(PUBLIC), key(OWN))
    sessions.remember(WRITER, both, [key(7)], [], alone=True)
    assert sessions.standings.of(key(OWN), Tier.SSD) is Standing.SUPERSEDED
    assert sessions.standings.of(key(PUBLIC), Tier.SSD) is Standing.ORDINARY
