"""What ``/metrics`` says of predictions: as the engine says it, and as it was where it cannot."""

import asyncio

import pytest
from app_harness import Run, Running
from fastapi import Response
from prometheus_client import REGISTRY, generate_latest

from cache_tiers.hints import Foresight
from engine.fake import FakeEngine


def _foresight(*, distrusted: int) -> Foresight:
    return Foresight(
        distrusted_tenants=distrusted,
        gaps=200,
        within={"10": 0.125, "50": 0.5, "90": 0.875},
        ks=0.25,
        shifts=3,
        prefetched_chunks=0,
        used_chunks=0,
        late_chunks=0,
        wasted_bytes=0,
        lead_s=0.02,
    )


async def _scraped(r: Running) -> dict[str, float]:
    @r.valet.engine_app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(REGISTRY))

    answer = await r.client.get("/metrics")
    shown = ("valet_returns_", "valet_lead_")
    lines = [line for line in answer.text.splitlines() if line.startswith(shown)]
    return {name: float(value) for name, value in (line.split() for line in lines)}


@pytest.mark.parametrize("distrusted", [0, 2])
async def test_predictions_are_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, distrusted: int
) -> None:
    async def foresight(_: FakeEngine) -> Foresight:
        return _foresight(distrusted=distrusted)

    monkeypatch.setattr(FakeEngine, "foresight", foresight)
    async with run() as r:
        assert await _scraped(r) == {
            "valet_returns_distrusted_tenants": float(distrusted),
            'valet_returns_within{quantile="0.1"}': 0.125,
            'valet_returns_within{quantile="0.5"}': 0.5,
            'valet_returns_within{quantile="0.9"}': 0.875,
            "valet_returns_distance": 0.25,
            "valet_returns_gaps": 200.0,
            "valet_returns_shifts": 3.0,
            "valet_lead_seconds": 0.02,
        }


async def test_scrapes_that_come_together_ask_the_engine_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = 0, asyncio.Event()

    async def foresight(_: FakeEngine) -> Foresight:
        nonlocal asked
        asked += 1
        await go.wait()
        return _foresight(distrusted=0)

    monkeypatch.setattr(FakeEngine, "foresight", foresight)
    monkeypatch.setattr("app.scrape.WAIT_S", 0)
    async with run() as r:
        await asyncio.gather(*(r.client.get("/metrics") for _ in range(5)))
        assert asked == 1


async def test_without_an_engine_the_rest_is_shown(run: Run) -> None:
    async with run() as r:
        r.engine.die()
        assert "valet_returns_distrusted_tenants" in await _scraped(r)
