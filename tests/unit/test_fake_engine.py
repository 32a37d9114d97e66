"""The fake engine keeps the promises that others test against."""

from collections.abc import Sequence

import pytest

from cache_tiers.hints import KvReport
from cache_tiers.types import MissReason, SessionKey, Tier
from engine.fake import FakeEngine
from engine.fake_cache import FakeDisk
from engine.fake_tokens import encode
from engine.port import EngineDead, EnginePort, Generation, TurnContext, current_turn

PROMPT = [f"w{i}" for i in range(14)]
S1, S2 = SessionKey("t/s1"), SessionKey("t/s2")


async def _generate(
    engine: FakeEngine, session: SessionKey, prompt: list[str], salt: str = "salt"
) -> tuple[list[str], KvReport]:
    turn = TurnContext(session, salt)
    token = current_turn.set(turn)
    try:
        words = [word.text async for word in engine.generate(prompt, 8)]
    finally:
        current_turn.reset(token)
    (generation,) = turn.generations
    assert generation.report is not None
    return words, generation.report


def _reuse(report: KvReport) -> tuple[int, int, int, int]:
    assert report.device + report.dram + report.ssd + report.computed == report.prompt
    assert sum(m.tokens for m in report.misses) == report.computed
    return report.device, report.dram, report.ssd, report.prefetched


async def test_it_is_an_engine_port() -> None:
    engine: EnginePort = FakeEngine()
    await engine.start()
    assert engine.info.tokens_per_chunk == 4
    assert engine.models == ("fake",)


async def test_the_prompt_alone_decides_the_reply() -> None:
    engine = FakeEngine()
    first, _ = await _generate(engine, S1, PROMPT)
    again, report = await _generate(engine, S1, PROMPT)
    other, _ = await _generate(FakeEngine(), S2, PROMPT, salt="other")
    assert first == again == other
    assert _reuse(report) == (12, 0, 0, 0)
    assert (await _generate(engine, S1, [*PROMPT, "more"]))[0] != first


async def test_the_last_token_is_always_computed() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT[:12])
    assert _reuse((await _generate(engine, S1, PROMPT[:12]))[1]) == (8, 0, 0, 0)


async def test_generated_tokens_are_kept_too() -> None:
    engine = FakeEngine()
    reply, _ = await _generate(engine, S1, PROMPT)
    _, report = await _generate(engine, S1, [*PROMPT, *reply, "next"])
    assert _reuse(report) == (20, 0, 0, 0)
    assert report.misses[0].reason is MissReason.APPENDED


async def test_park_frees_what_nobody_else_holds() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT)
    await _generate(engine, S2, PROMPT[:9])
    kv = await engine.park(S1)
    assert kv.tokens_by_tier[Tier.DEVICE] == 8
    assert kv.ssd_complete
    kv = await engine.park(S2)
    assert kv.tokens_by_tier[Tier.DEVICE] == 0
    assert _reuse((await _generate(engine, S1, PROMPT))[1]) == (0, 0, 12, 0)


async def test_prefetched_tokens_are_ssd_tokens_that_cost_nothing_twice() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT)
    await engine.park(S1)
    fetched = await engine.prefetch(S1, Tier.DRAM, 1000)
    assert (fetched.tokens, fetched.complete) == (20, True)
    assert _reuse((await _generate(engine, S1, PROMPT))[1]) == (0, 0, 12, 12)
    assert _reuse((await _generate(engine, S1, PROMPT))[1]) == (12, 0, 0, 0)


async def test_a_restart_keeps_the_disk() -> None:
    disk = FakeDisk()
    await _generate(FakeEngine(disk), S1, PROMPT)
    engine = FakeEngine(disk)
    (held,) = await engine.held_sessions()
    assert held.tokens_by_tier == {Tier.DEVICE: 0, Tier.DRAM: 0, Tier.SSD: 20}
    assert _reuse((await _generate(engine, S1, PROMPT))[1]) == (0, 0, 12, 0)


async def test_a_corrupt_chunk_ends_the_prefix() -> None:
    disk = FakeDisk()
    words, _ = await _generate(FakeEngine(disk), S1, PROMPT)
    disk.damage(S1, 1)
    engine = FakeEngine(disk)
    assert (await engine.prefetch(S1, Tier.DRAM, 1000)).complete is False
    again, report = await _generate(engine, S1, PROMPT)
    assert again == words
    assert _reuse(report) == (0, 0, 4, 4)
    assert report.misses[0].reason is MissReason.CORRUPT_CHUNK


async def test_a_changed_prefix_says_where() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT)
    _, report = await _generate(engine, S1, [*PROMPT[:5], "changed", *PROMPT[6:]])
    assert report.misses[0].reason is MissReason.PREFIX_CHANGED
    assert report.misses[0].at_token == 4


async def test_salts_part_tenants() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT)
    assert _reuse((await _generate(engine, S2, PROMPT, salt="other"))[1]) == (0, 0, 0, 0)


async def test_drop_leaves_what_others_hold() -> None:
    engine = FakeEngine()
    await _generate(engine, S1, PROMPT)
    await _generate(engine, S2, PROMPT[:9])
    dropped = await engine.drop(S1)
    assert (dropped.known, dropped.chunks, dropped.key_destroyed) == (True, 3, True)
    assert (await engine.status(S2)).ssd_complete
    again = await engine.drop(S1)
    assert (again.known, again.key_destroyed) == (False, False)
    assert not (await engine.status(S1)).known


async def test_a_session_that_filled_no_chunk_had_no_key() -> None:
    engine = FakeEngine(tokens_per_chunk=64)
    await _generate(engine, S1, PROMPT)
    dropped = await engine.drop(S1)
    assert (dropped.known, dropped.chunks, dropped.key_destroyed) == (True, 0, False)


async def test_a_turn_begins_once_and_an_abort_has_no_report() -> None:
    engine = FakeEngine()
    begun: list[str] = []
    turn = TurnContext(S1, "salt", on_begin=lambda: begun.append("x"))
    token = current_turn.set(turn)
    words = engine.generate(PROMPT, 8)
    await anext(words)
    await words.aclose()
    assert [w async for w in engine.generate(PROMPT, 2)]
    current_turn.reset(token)
    aborted, whole = turn.generations
    assert begun == ["x"]
    assert _outcome(aborted) == ("abort", 1, False)
    assert _outcome(whole) == ("length", 2, True)
    assert engine.aborted == 1
    assert not turn.done


def _outcome(generation: Generation) -> tuple[str | None, int, bool]:
    return generation.finish_reason, generation.output_tokens, generation.report is not None


async def test_a_dead_engine_refuses() -> None:
    engine = FakeEngine()
    engine.die()
    for command in (engine.park(S1), engine.drop(S1), engine.status(S1), engine.held_sessions()):
        with pytest.raises(EngineDead):
            await command
    with pytest.raises(EngineDead):
        await _generate(engine, S1, PROMPT)


async def _turn(engine: FakeEngine, turn: TurnContext, max_tokens: int = 8) -> Generation:
    token = current_turn.set(turn)
    try:
        words = [word async for word in engine.generate(PROMPT, max_tokens)]
    finally:
        current_turn.reset(token)
    assert {word.prompt_tokens for word in words} == {len(turn.generations[-1].prompt_tokens)}
    return turn.generations[-1]


async def test_another_prompt_is_computed_when_the_turn_has_one() -> None:
    engine = FakeEngine(max_model_len=40)
    rendered = encode(PROMPT)
    told: list[list[int]] = []

    def longer(tokens: Sequence[int]) -> list[int]:
        told.append(list(tokens))
        return [*tokens, 7, 8]

    generation = await _turn(engine, TurnContext(S1, "salt", on_prompt=longer))
    assert told == [rendered]
    assert generation.prompt_tokens == [*rendered, 7, 8]
    assert generation.report is not None
    assert generation.report.prompt == 16
    # What does not fit is not taken.
    whole = TurnContext(S1, "salt", on_prompt=lambda tokens: [*tokens] * 3)
    assert (await _turn(engine, whole)).prompt_tokens == rendered


async def test_an_answer_ends_with_the_end_of_the_turn_unless_it_is_cut() -> None:
    engine = FakeEngine()
    ended = await _turn(engine, TurnContext(S1, "salt"))
    cut = await _turn(engine, TurnContext(S1, "salt"), max_tokens=3)
    assert ended.answer_tokens[:3] == cut.answer_tokens
    assert [token in engine.end_of_turn for token in ended.answer_tokens] == [False] * 7 + [True]
    assert (ended.finish_reason, cut.finish_reason) == ("stop", "length")
