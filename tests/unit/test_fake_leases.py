"""The fake engine's forks, cuts, pins and usage are those of the real one."""

from cache_tiers.hints import KvReport
from cache_tiers.types import SessionKey, Tier
from engine.fake import FakeEngine
from engine.fake_cache import CHUNK_BYTES, FakeDisk
from engine.port import EnginePort, TurnContext, current_turn

PROMPT = [f"w{i}" for i in range(14)]
S1, S2, S3 = SessionKey("t/s1"), SessionKey("t/s2"), SessionKey("other/s3")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def turn(engine: FakeEngine, session: SessionKey, prompt: list[str]) -> KvReport:
    context = TurnContext(session, cache_salt=session.partition("/")[0])
    token = current_turn.set(context)
    try:
        async for _ in engine.generate(prompt, 8):
            pass
    finally:
        current_turn.reset(token)
    report = context.generations[0].report
    assert report is not None
    return report


async def test_a_fork_shares_all_and_outlives_its_parent() -> None:
    engine = FakeEngine()
    port: EnginePort = engine
    await turn(engine, S1, PROMPT)
    held = (await port.usage())[0].by_tier
    kv = await port.fork(S1, S2, 11)
    assert (kv.tokens, kv.ssd_complete) == (8, True)
    assert (await port.usage())[0].by_tier == held
    dropped = await port.drop(S1)
    assert dropped.chunks * CHUNK_BYTES == held[Tier.SSD] - 2 * CHUNK_BYTES
    assert (await turn(engine, S2, PROMPT)).device == 8
    assert not (await port.fork(SessionKey("t/none"), S3, None)).known


async def test_what_is_left_behind_goes_first_unless_a_fork_holds_it() -> None:
    engine = FakeEngine()
    await turn(engine, S1, PROMPT)
    await engine.fork(S1, S2, 12)
    report = await turn(engine, S1, [*PROMPT[:5], "changed", *PROMPT[6:]])
    assert report.superseded == 20 - 12, "the answer's chunks; the fork holds the rest"
    size = len(engine.disk.chunks)
    engine.make_room(Tier.SSD, 2)
    assert len(engine.disk.chunks) == size - 2
    assert (await engine.status(S1)).ssd_complete
    assert (await engine.status(S2)).ssd_complete


async def test_a_cut_keeps_the_beginning() -> None:
    engine = FakeEngine()
    await turn(engine, S1, PROMPT)
    assert (await engine.truncate(S1, 9)).tokens == 8
    assert not (await engine.truncate(S2, 9)).known
    engine.make_room(Tier.DEVICE, 3)
    assert (await engine.status(S1)).tokens_by_tier[Tier.DEVICE] == 8


async def test_a_side_question_leaves_the_history_alone() -> None:
    engine = FakeEngine()
    await turn(engine, S1, [*PROMPT, *PROMPT])
    assert (await turn(engine, S1, ["title", "this", "talk", "please", "now"])).superseded == 0
    assert (await engine.status(S1)).tokens == 36


async def test_pins_hold_until_nothing_else_is_left_and_the_oldest_breaks_first() -> None:
    clock = Clock()
    engine = FakeEngine(clock=clock)
    for session in (S1, S2, S3):
        await turn(engine, session, [session, *PROMPT])
    pinned = await engine.pin(S1, Tier.DEVICE, 60)
    assert (pinned.granted, pinned.tokens, pinned.bytes) == (True, 20, 5 * CHUNK_BYTES)
    await engine.pin(S3, Tier.DEVICE, 60)
    engine.make_room(Tier.DEVICE, 5)
    assert (await engine.status(S2)).tokens_by_tier[Tier.DEVICE] == 0
    assert await engine.take_broken() == []
    engine.make_room(Tier.DEVICE, 1)
    (broken,) = await engine.take_broken()
    assert (broken.session, broken.bytes) == (S1, 5 * CHUNK_BYTES)
    assert await engine.take_broken() == []
    usage = {each.tenant: each.pinned_by_tier[Tier.DEVICE] for each in await engine.usage()}
    assert usage == {"t": 0, "other": 5 * CHUNK_BYTES}


async def test_pins_follow_their_session_and_end() -> None:
    clock = Clock()
    engine = FakeEngine(clock=clock)
    await engine.pin(S1, Tier.DEVICE, 60)
    await turn(engine, S1, PROMPT)
    await engine.park(S1)
    assert (await engine.status(S1)).tokens_by_tier[Tier.DEVICE] == 20
    clock.now = 61
    assert (await engine.usage())[0].pinned_by_tier[Tier.DEVICE] == 0
    assert await engine.take_broken() == [], "it was not broken, it was over"
    await engine.pin(S1, Tier.SSD, 60)
    await engine.pin(S1, Tier.DRAM, 60)
    await engine.unpin(S1, Tier.SSD)
    assert not (await engine.pin(S1, Tier.DRAM, 60)).tokens
    await engine.unpin(S1, None)
    assert sum((await engine.usage())[0].pinned_by_tier.values()) == 0


async def test_a_pin_larger_than_the_budget_is_not_granted() -> None:
    engine = FakeEngine(tokens_per_chunk=1)
    await turn(engine, S1, [f"w{i}" for i in range(600)])
    assert not (await engine.pin(S1, Tier.DRAM, 60)).granted


async def test_a_restart_keeps_what_sessions_hold() -> None:
    disk = FakeDisk()
    engine = FakeEngine(disk)
    await turn(engine, S1, PROMPT)
    await engine.fork(S1, S2, None)
    again = FakeEngine(disk)
    assert {kv.session for kv in await again.held_sessions()} == {S1, S2}
    assert not (await again.drop(S2)).key_destroyed, "it wrote nothing"
