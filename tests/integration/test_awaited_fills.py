"""A fill's last step, on the scheduler's side: its copies are done, its blocks not yet adopted."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.types import SessionKey
from engine.core_plugin.choice import Choice
from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.loads import FILL, Loads
from engine.core_plugin.reports import RequestRecord
from engine.core_plugin.scheduler import ValetScheduler
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
        self.scheduler: Any = SimpleNamespace(
            loads=self.loads,
            choice=self.choice,
            ledger=SimpleNamespace(get=lambda request_id: self.record),
            foresight=SimpleNamespace(
                asked=lambda session: None, planning=SimpleNamespace(fills=fills)
            ),
            _req_status={"r": state},
            _current_batch_allocated_block_ids=set(),
            _filled=[],
        )

    def awaits(self) -> bool:
        return ValetScheduler._awaits_fill(self.scheduler, SimpleNamespace(request_id="r"))

    def copy_everything(self) -> None:
        jobs: dict[int, int] = {}

        def done() -> bool:
            jobs.update(dict.fromkeys(self.loads.advance(time.monotonic()), 1))
            self.loads.take_completed(jobs, time.monotonic())
            return bool(self.scheduler._filled)

        self.tiers.until(done)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "store")
    yield side
    side.tiers.close()


@pytest.mark.parametrize("in_dram", [True, False])
def test_a_request_waits_until_the_blocks_are_adopted(side: Side, in_dram: bool) -> None:
    if not in_dram:
        side.tiers.manager.dram.drop([key(n) for n in range(CHUNKS)])
    items = [LoadItem(key(n), 0, n, (n,)) for n in range(CHUNKS)]
    stream = LoadStream(items, now=time.monotonic(), patience_s=5.0)
    ValetScheduler.open_fill(side.scheduler, stream, range(CHUNKS))
    side.copy_everything()
    assert stream.ended
    assert not side.loads.is_open(FILL)
    assert side.awaits(), "nobody asked before: its chunks are in DRAM, and nearly on the device"
    # The step's end: the operation has adopted them.
    side.scheduler._filled.clear()
    side.filling = False
    assert not side.awaits()
    assert side.record.load_ms >= 0
    assert side.record.awaits_fill_since is None
