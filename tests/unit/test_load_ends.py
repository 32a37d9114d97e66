"""How vLLM learns that a load is over: at once when it is whole, by the workers' echo if not."""

from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.load_ends import LoadEnds
from engine.core_plugin.load_records import LoadRecords
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.orders import Orders
from engine.core_plugin.reports import ReportLedger
from engine.core_plugin.vllm_compat import KVConnectorOutput

TOKENS, CHUNKS = 16, 4
KEYS = [ChunkKey(b"%d" % n) for n in range(CHUNKS)]


class Side:
    """Who is told, and a request whose load ends."""

    def __init__(self, groups: int = 1) -> None:
        self.orders = Orders()
        self.ledger = ReportLedger(TOKENS, store_enabled=True)
        self.ledger.begin("r", None, None)
        manager: Any = SimpleNamespace(
            chunk_bytes=100,
            origins=SimpleNamespace(of=lambda _: SimpleNamespace(tiers={}, prefetched=set())),
        )
        self.ends = LoadEnds(
            self.orders,
            self.ledger,
            LoadRecords(manager, block_tokens=TOKENS, chunk_tokens=TOKENS),
            block_tokens=TOKENS,
            chunk_tokens=[TOKENS] * groups,
        )
        self.state: Any = SimpleNamespace(
            req=SimpleNamespace(request_id="r", is_finished=lambda: False, prefill_stats=None),
            req_context=None,
            group_states=[SimpleNamespace(next_stored_chunk_idx=CHUNKS) for _ in range(groups)],
            max_load_tokens=None,
        )

    def load(self, whole: bool) -> LoadStream:
        items = [LoadItem(key, 0, n, (10 + n,)) for n, key in enumerate(KEYS)]
        stream = LoadStream(items, now=1.0, patience_s=5.0)
        there = CHUNKS if whole else 1
        stream.on_ready(KEYS[:there], 1.0)
        stream.on_copied([item.key for item in stream.take_run()], 1.0)
        if not whole:
            stream.give_up(MissReason.IO_TIMEOUT)
        assert stream.ended
        return stream

    def told(self, echo: set[str] | None = None) -> set[str]:
        output = KVConnectorOutput(finished_recving=echo)
        self.ends.tell(output)
        return output.finished_recving or set()


def test_a_load_that_is_whole_is_told_of_in_the_same_step() -> None:
    side = Side()
    side.ends.ended(side.state, side.load(whole=True), now=1.5)
    assert side.ends.is_ending("r")
    assert not side.orders
    assert side.told() == {"r"}
    assert not side.ends.is_ending("r")
    assert side.told() == set(), "once"
    record = side.ledger.get("r")
    assert record is not None
    assert record.load_ms == pytest.approx(500)


def test_one_that_failed_waits_for_the_workers_who_name_its_blocks() -> None:
    side = Side()
    side.ends.ended(side.state, side.load(whole=False), now=1.5)
    assert side.told() == set()
    assert side.ends.is_ending("r")
    assert side.orders.loads_ended == {"r"}
    assert side.orders.failed_blocks == {11, 12, 13}
    assert side.state.group_states[0].next_stored_chunk_idx == 1
    assert side.told(echo={"r"}) == {"r"}
    assert not side.ends.is_ending("r")


def test_of_several_groups_the_whole_request_is_taken_back() -> None:
    side = Side(groups=2)
    side.ends.ended(side.state, side.load(whole=False), now=1.5)
    assert side.orders.loads_failed == {"r"}
    assert [group.next_stored_chunk_idx for group in side.state.group_states] == [0, 0]


def test_a_request_that_is_over_gets_nothing_back() -> None:
    side = Side()
    side.state.req.is_finished = lambda: True
    side.ends.ended(side.state, side.load(whole=False), now=1.5)
    assert not side.orders.failed_blocks
    assert side.orders.loads_ended == {"r"}, "its blocks are freed by the echo"
