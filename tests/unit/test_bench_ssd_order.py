"""What an SSD that is too small is measured by."""

import math
from itertools import pairwise
from pathlib import Path

import pytest

from cache_tiers.eviction.expectation import Price
from cache_tiers.returns.types import Awaits
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.store import SsdStore
from cache_tiers.types import SessionKey
from load.bench_ssd_order import ANSWER_S, ORDERS, STAND_IN_BYTES, Row, Turn, draw, replay, timeline
from load.replay_writes import Clock
from load.traces import Request

PRICE = Price(1.0, 0.0)


def request(session: str, blocks: int, gap_s: float, awaits: Awaits = Awaits.TOOL) -> Request:
    return Request(session, 0.0, 8 * blocks, 10, session, ((0, blocks),), gap_s, awaits)


def open_store(root: Path, chunks: int, clock: Clock) -> SsdStore:
    config = SsdConfig(
        root=root,
        fingerprint="f",
        chunk_bytes=STAND_IN_BYTES,
        bytes_limit=chunks * STAND_IN_BYTES,
    )
    return SsdStore.open(config, clock)


SHORT = [request("short", 4 + n, 5.0) for n in range(20)]
LONG = [request("long", 40 + n, 2000.0, Awaits.PERSON) for n in range(4)]


def load(turns: int = 120) -> list[Turn]:
    return timeline([*SHORT, *LONG], chunk_blocks=2, users=6, turns=turns, seed=1)


def test_a_timeline_is_of_turns_that_wait_for_answers_and_gaps() -> None:
    turns = load()
    assert len(turns) == 120
    assert [t.answered_s for t in turns] == sorted(t.answered_s for t in turns)
    asked: dict[SessionKey, list[Turn]] = {}
    for turn in turns:
        asked.setdefault(turn.end.session, []).append(turn)
    for session in asked.values():
        for before, after in pairwise(session):
            assert after.asked_s == before.returns_s >= before.answered_s
            assert after.end.turn == before.end.turn + 1
            assert after.chain[: len(before.chain)] == before.chain
    assert any(turn.returns_s == math.inf for turn in turns)
    assert turns[0].answered_s == turns[0].asked_s + ANSWER_S


def test_sessions_share_no_chunks_and_the_same_again_is_another_session() -> None:
    first: dict[object, SessionKey] = {}
    for turn in load():
        for key in turn.chain:
            assert first.setdefault(key, turn.end.session) == turn.end.session


def test_it_is_the_same_each_time() -> None:
    assert load() == load()


@pytest.mark.parametrize("order", ORDERS)
def test_a_store_with_room_keeps_everything(tmp_path: Path, order: str) -> None:
    turns, clock = load(), Clock()
    most, most_saved_s = replay(turns, None, None, PRICE, Clock())
    assert most == most_saved_s > 0
    store = open_store(tmp_path, 10_000, clock)
    try:
        assert replay(turns, store, ORDERS[order], PRICE, clock) == (most, most_saved_s)
    finally:
        store.close()


def test_who_knows_keeps_the_most(tmp_path: Path) -> None:
    turns = load(400)
    found = {}
    for order, expecting in ORDERS.items():
        clock = Clock()
        store = open_store(tmp_path / order.replace(", ", "-"), 60, clock)
        try:
            found[order], _ = replay(turns, store, expecting, PRICE, clock)
        finally:
            store.close()
    most, _ = replay(turns, None, None, PRICE, Clock())
    assert max(found, key=lambda order: found[order]) == "knowing"
    assert found["recency"] < found["importance"] < found["knowing"] < most


def test_a_table() -> None:
    drawn = draw([Row(64, 0.25, "recency", 0.5, 0.75)])
    assert "25%" in drawn
    assert "50.0%" in drawn
    assert "75.0%" in drawn
