"""Forks, cuts and pins on the real engine, alone: no application around it."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cache_tiers.hints import KvReport
from cache_tiers.ssd.installation import Installation
from cache_tiers.types import SessionKey, Tier
from engine.config import EngineConfig
from engine.models import prepare_default_model
from engine.port import TurnContext, current_turn
from engine.vllm_server import VllmEngine
from tests.valet_process import MODELS

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]

BLOCK = 32
CHUNK = BLOCK * 23040
DEVICE_BLOCKS, DRAM_CHUNKS = 24, 16
MOST_TOKENS = 12 * BLOCK


def prompt(seed: int, tokens: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 20000), k=tokens)


class Bench:
    """A running engine and a client of its routes."""

    def __init__(self, engine: VllmEngine, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self._client = client

    async def turn(
        self, session: SessionKey, tokens: list[int], answer: int = 8
    ) -> tuple[list[int], KvReport]:
        """One greedy turn: what was answered, and what was reused."""
        turn = TurnContext(session, cache_salt="00")
        current_turn.set(turn)
        body = {"model": "m", "prompt": tokens, "max_tokens": answer, "temperature": 0}
        response = await self._client.post(
            "/v1/completions", json=body | {"ignore_eos": True, "return_token_ids": True}
        )
        assert response.status_code == 200, response.text
        (generation,) = turn.generations
        assert generation.report is not None
        return response.json()["choices"][0]["token_ids"], generation.report

    async def bytes_written(self) -> int:
        """To SSD, of chunks, since the start; when no more is told of."""
        before, now = -1, 0
        while now != before:
            before, now = now, await self._bytes_told()
            await asyncio.sleep(0.2)
        return now

    async def _bytes_told(self) -> int:
        metrics = (await self._client.get("/metrics")).text
        found = re.search(r"^vllm:valet_ssd_bytes_written_total\S* (\S+)$", metrics, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Bench]:
    engine = VllmEngine(
        EngineConfig(
            model=prepare_default_model(MODELS),
            served_model_name="m",
            max_model_len=MOST_TOKENS,
            block_size=BLOCK,
            device_kv=DEVICE_BLOCKS * CHUNK,
            dram=DRAM_CHUNKS * CHUNK,
            home=home,
            store=Installation(
                root=home / "store", bytes_limit=1 << 30, master_key=f"file:{home / 'key'}"
            ),
            ssd_minimum_tokens=0,
            load_slowdown=0.0,
            prefetch=True,
            chat_template=None,
            tool_call_parser="hermes",
        )
    )
    app = await engine.start()
    try:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=120
        ) as client:
            yield Bench(engine, client)
    finally:
        await engine.stop(10)


async def test_forks_and_pins(tmp_path: Path) -> None:
    """In one test: a server takes a while to start."""
    async with running(tmp_path) as bench:
        await forks_share_all_and_outlive_their_parent(bench)
        await what_a_history_leaves_behind_is_counted(bench)
        await pins_survive_pressure_and_break_before_a_request_waits(bench)


async def forks_share_all_and_outlive_their_parent(bench: Bench) -> None:
    engine = bench.engine
    parent, child, second = (SessionKey(f"t/{name}") for name in ("parent", "child", "second"))
    # The second turn ends within the same chunk, so that every turn below computes the same.
    first = prompt(1, 4 * BLOCK + 10)
    said, _ = await bench.turn(parent, first)
    again = [*first, *said, *prompt(2, 4)]
    expected, report = await bench.turn(parent, again)
    assert (report.device, report.superseded) == (4 * BLOCK, 0)
    await engine.park(parent)
    await engine.prefetch(parent, Tier.DEVICE, 10_000)
    (held,) = await engine.usage()
    written = await bench.bytes_written()

    kv = await engine.fork(parent, child, None)
    assert (kv.known, kv.tokens, kv.ssd_complete) == (True, 4 * BLOCK, True)
    answer, report = await bench.turn(child, again)
    assert (answer, report.device) == (expected, 4 * BLOCK)

    await engine.park(child)
    await engine.park(parent)
    assert (await engine.fork(child, second, 3 * BLOCK + 5)).tokens == 3 * BLOCK
    assert (await engine.status(child)).tokens_by_tier[Tier.DEVICE] == 0
    answer, report = await bench.turn(child, again)
    assert (answer, report.ssd) == (expected, 4 * BLOCK)
    await engine.park(child)
    assert (await engine.usage())[0].by_tier[Tier.SSD] == held.by_tier[Tier.SSD] == 4 * CHUNK
    assert await bench.bytes_written() == written, "a fork writes nothing"

    dropped = await engine.drop(parent)
    assert (dropped.key_destroyed, dropped.chunks) == (True, 0)
    kv = await engine.status(child)
    assert (kv.tokens_by_tier[Tier.SSD], kv.tokens_by_tier[Tier.DEVICE]) == (4 * BLOCK, 0)
    answer, report = await bench.turn(child, again)
    assert (answer, report.ssd) == (expected, 4 * BLOCK), "its parent's key is gone, its KV is not"

    dropped = await engine.drop(child)
    assert (dropped.key_destroyed, dropped.chunks) == (False, 1), "it never wrote a chunk"
    assert (await engine.drop(second)).chunks == 3
    assert await engine.usage() == []


async def what_a_history_leaves_behind_is_counted(bench: Bench) -> None:
    engine = bench.engine
    session, fork = SessionKey("t/history"), SessionKey("t/history-fork")
    history = prompt(3, 4 * BLOCK + 10)
    await bench.turn(session, history)
    await engine.fork(session, fork, None)
    edited = [*history[: 2 * BLOCK], *prompt(4, 10)]
    _, report = await bench.turn(fork, edited)
    assert (report.superseded, report.device) == (0, 2 * BLOCK), "its parent holds it"
    _, report = await bench.turn(session, edited)
    assert report.superseded == 2 * BLOCK
    _, report = await bench.turn(session, history)
    assert (report.superseded, report.device) == (0, 4 * BLOCK), "still there, and wanted again"
    assert (await engine.truncate(session, 3 * BLOCK)).tokens == 3 * BLOCK
    await engine.drop(fork)
    assert (await engine.drop(session)).chunks == 4


async def pins_survive_pressure_and_break_before_a_request_waits(bench: Bench) -> None:
    engine = bench.engine
    pinned, other = SessionKey("t/pinned"), SessionKey("t/other")
    ours = prompt(5, 4 * BLOCK + 10)
    await bench.turn(pinned, ours)
    await bench.turn(other, prompt(6, 4 * BLOCK + 10))
    for tier in (Tier.DEVICE, Tier.DRAM):
        granted = await engine.pin(pinned, tier, 600)
        assert (granted.granted, granted.tokens) == (True, 4 * BLOCK)
    # As long as theirs, so that recency decides.
    for seed in range(20, 25):
        await bench.turn(SessionKey(f"t/another{seed}"), prompt(seed, 4 * BLOCK + 10))
    by_tier = (await engine.status(other)).tokens_by_tier
    assert (by_tier[Tier.DEVICE], by_tier[Tier.DRAM]) == (0, 0)
    kept = (await engine.status(pinned)).tokens_by_tier
    assert (kept[Tier.DEVICE], kept[Tier.DRAM]) == (4 * BLOCK, 4 * BLOCK)
    assert (await engine.usage())[0].pinned_by_tier[Tier.DEVICE] == 4 * CHUNK
    assert (await bench.turn(pinned, ours))[1].device == 4 * BLOCK
    assert await engine.take_broken() == []

    await asyncio.gather(
        *(
            asyncio.create_task(
                bench.turn(SessionKey(f"t/large{seed}"), prompt(seed, 10 * BLOCK + 10))
            )
            for seed in (9, 10)
        )
    )
    (broken,) = await engine.take_broken()
    assert (broken.session, broken.tier, broken.bytes) == (pinned, Tier.DEVICE, 4 * CHUNK)
    assert (await engine.status(pinned)).tokens_by_tier[Tier.DRAM] == 4 * BLOCK
