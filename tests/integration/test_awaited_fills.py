"""Requests that come while their session is filled in on the device, on the scheduler's side."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.types import SessionKey, Tier
from engine.core_plugin.choice import Choice
from engine.core_plugin.load_records import LoadRecords
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.loads import FILL, Loads
from engine.core_plugin.planned_fills import Found
from engine.core_plugin.reports import RequestRecord
from engine.core_plugin.request_prefetch import RequestPrefetch
from engine.core_plugin.scheduler import ValetScheduler
from engine.core_plugin.vllm_compat import (
    KVConnectorOutput,
    OffloadingConnectorScheduler,
    OffloadingWorkerMetadata,
)
from tests.integration.test_tier_manager import CHUNK, Tiers, key

TOKENS, CHUNKS = 16, 3
SESSION = SessionKey("t/a")


class Side:
    """As much of a scheduler side as fills and those who wait for them touch."""

    def __init__(self, folder: Path) -> None:
        self.tiers = Tiers(folder)
        for n in range(CHUNKS):
            self.tiers.store([n])
        manager = self.tiers.manager
        self.loads = Loads(manager, workers=1, groups=1, new_job_id=count().__next__)
        self.choice = Choice(
            manager, self.loads, LearnedCosts(CHUNK), chunk_tokens=TOKENS, groups=1, workers=1
        )
        self.record = RequestRecord(SESSION, None)
        self.filling = True
        state = SimpleNamespace(
            req=SimpleNamespace(request_id="r", num_tokens=CHUNKS * TOKENS + 1),
            group_states=[SimpleNamespace(offload_keys=[key(n) for n in range(CHUNKS)])],
            update_offload_keys=lambda: None,
        )
        fills = SimpleNamespace(is_filling=lambda session: self.filling)
        foresight: Any = SimpleNamespace(
            asked=lambda session: None, planning=SimpleNamespace(fills=fills)
        )
        ledger: Any = SimpleNamespace(get=lambda request_id: self.record)
        states: Any = {"r": state}
        self.records = LoadRecords(manager, block_tokens=TOKENS, chunk_tokens=TOKENS)
        self.prefetch = RequestPrefetch(
            states,
            ledger,
            foresight,
            self.loads,
            self.choice,
            self.records,
            chunk_tokens=TOKENS,
        )
        self.scheduler: Any = ValetScheduler.__new__(ValetScheduler)
        vars(self.scheduler).update(
            loads=self.loads,
            choice=self.choice,
            _req_status=states,
            _current_batch_allocated_block_ids=set(),
            _load_ends=SimpleNamespace(tell=lambda output: None),
            _has_filled=False,
        )

    def fill(self) -> LoadStream:
        items = [LoadItem(key(n), 0, n, (n,)) for n in range(CHUNKS)]
        stream = LoadStream(items, now=time.monotonic(), patience_s=5.0)
        self.scheduler.open_fill(stream, range(CHUNKS))
        return stream

    def awaits(self) -> bool:
        return self.prefetch.awaits_fill("r")

    def copy_everything(self, stream: LoadStream) -> None:
        def done() -> bool:
            jobs = dict.fromkeys(self.loads.advance(time.monotonic()), 1)
            self.loads.take_completed(jobs, time.monotonic())
            return stream.ended

        self.tiers.until(done)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "store")
    yield side
    side.tiers.close()


def test_a_fill_is_adopted_in_the_step_in_which_its_last_copy_is_done(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = side.fill()
    assert side.awaits()
    assert side.record.at_hand == CHUNKS, "all is in DRAM, so it was in time"
    adopted: list[bool] = []
    side.scheduler.desk = SimpleNamespace(poll=lambda now: adopted.append(stream.ended))
    monkeypatch.setattr(
        OffloadingConnectorScheduler, "update_connector_output", lambda *_: None, raising=True
    )
    for _ in range(CHUNKS):
        jobs = dict.fromkeys(side.loads.advance(time.monotonic()), 1)
        copied = OffloadingWorkerMetadata(completed_jobs=jobs)
        side.scheduler.update_connector_output(KVConnectorOutput(kv_connector_worker_meta=copied))
    assert adopted == [True], "before anybody asks again, and only then"
    assert not side.loads.is_open(FILL)
    side.filling = False
    assert not side.awaits()
    assert side.record.load_ms >= 0
    assert side.record.awaits_fill_since is None


def test_what_was_on_its_way_when_the_request_asked_was_late(side: Side) -> None:
    side.tiers.manager.dram.drop([key(n) for n in range(1, CHUNKS)])
    stream = side.fill()
    assert side.awaits()
    side.copy_everything(stream)
    assert side.record.at_hand == 1
    side.record.device = CHUNKS * TOKENS
    side.records.found(side.record, Found(Counter({Tier.SSD: CHUNKS}), side.record.at_hand))
    assert side.record.tokens_by_tier == {Tier.SSD: CHUNKS * TOKENS}
    assert side.record.prefetched == TOKENS
