"""Loads beside answers: no more is copied in a step than is allowed, and nothing read far ahead."""

import time
from itertools import count
from pathlib import Path

import pytest

from engine.core_plugin.load_stream import LoadItem, LoadStream
from engine.core_plugin.loads import AHEAD_STEPS, Loads
from engine.core_plugin.manager import CHUNKS_PER_READ
from engine.core_plugin.spec import ValetSpec
from tests.integration.test_tier_manager import Tiers, key

CHUNKS = 24
ALLOWED = 1


def test_a_load_is_spread_over_steps(tmp_path: Path) -> None:
    tiers = Tiers(tmp_path / "store")
    numbers = range(CHUNKS)
    tiers.store(numbers)
    tiers.dram.drop([key(n) for n in numbers])
    loads = Loads(tiers.manager, workers=1, groups=1, new_job_id=count().__next__)
    loads.allowance = lambda: ALLOWED
    stream = LoadStream(
        [LoadItem(key(n), 0, n, (n,)) for n in numbers], now=time.monotonic(), patience_s=5.0
    )
    moved, ahead, held = [], [], []

    def step() -> bool:
        jobs = loads.advance(time.monotonic())
        chunks, under_way = loads.take_moved()
        assert under_way
        moved.append(chunks)
        ahead.append(stream.in_dram())
        held.append(stream.held)
        loads.take_completed(dict.fromkeys(jobs, 1), time.monotonic())
        return stream.ended

    try:
        loads.advance(time.monotonic())
        loads.open("r", stream, lambda *_: None, time.monotonic())
        tiers.until(step)
    finally:
        tiers.close()
    assert stream.failure is None
    assert sum(moved) == CHUNKS
    assert max(moved) == ALLOWED
    # Reads go in pieces of so many chunks.
    assert max(ahead) < CHUNKS_PER_READ + AHEAD_STEPS * ALLOWED + CHUNKS_PER_READ
    assert any(held)


@pytest.mark.parametrize(
    ("on_cpu", "setting", "share"), [(True, 0.05, 0.05), (True, 0.0, None), (False, 0.05, None)]
)
def test_loads_are_spread_only_where_the_engine_computes_on_the_processors(
    monkeypatch: pytest.MonkeyPatch, on_cpu: bool, setting: float, share: float | None
) -> None:
    monkeypatch.setattr("engine.core_plugin.spec.current_platform.is_cpu", lambda: on_cpu)
    spec = ValetSpec.__new__(ValetSpec)
    spec.extra_config = {"load_slowdown": setting}
    assert spec.load_slowdown == share
