"""What every coordinator does: alone in memory, on Redis, and on a Redis that may be lost."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.coordination.fallback import RETRY_S, FallbackCoordinator
from sessions.coordination.memory import MemoryCoordinator
from sessions.coordination.port import CoordinationLost, Coordinator, Lease, Rate
from sessions.coordination.redis import RedisCoordinator
from tests.services.own_process import running
from tests.services.redis_server import OwnRedis

LONG_S = 60.0
FEW = Rate(per_minute=3)
prefixes = (f"test-{number}" for number in itertools.count())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine is no lost server."""
    monkeypatch.setattr("sessions.coordination.redis.WAIT_S", 30.0)


@pytest.fixture(params=["memory", "redis", "fallback", "fallback alone"])
async def coordinator(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Coordinator]:
    made: Coordinator
    match request.param:
        case "memory":
            made = MemoryCoordinator()
        case "redis":
            made = RedisCoordinator(redis_url, next(prefixes))
        case "fallback":
            made = FallbackCoordinator(RedisCoordinator(redis_url, next(prefixes)))
        case _:
            made = FallbackCoordinator(RedisCoordinator("redis://127.0.0.1:1/0", "x"))
    yield made
    await made.close()
    await made.close()


class TestCoordinator:
    async def test_one_holder_at_a_time(self, coordinator: Coordinator) -> None:
        mine = await coordinator.acquire("l", "me", LONG_S, 0)
        assert mine is not None
        assert (mine.name, mine.holder) == ("l", "me")
        assert await coordinator.acquire("l", "you", LONG_S, 0) is None
        assert await coordinator.acquire("other", "you", LONG_S, 0) is not None

    async def test_who_has_it_keeps_its_token(self, coordinator: Coordinator) -> None:
        mine = await coordinator.acquire("l", "me", LONG_S, 0)
        assert await coordinator.acquire("l", "me", LONG_S, 0) == mine

    async def test_tokens_grow(self, coordinator: Coordinator) -> None:
        tokens = [0]
        for holder in ("a", "b", "a"):
            lease = await coordinator.acquire("l", holder, LONG_S, 0)
            assert lease is not None
            assert lease.token > tokens[-1]
            tokens.append(lease.token)
            await coordinator.release(lease)

    async def test_a_token_is_above_what_the_database_knows(self, coordinator: Coordinator) -> None:
        lease = await coordinator.acquire("l", "me", LONG_S, 41)
        assert lease is not None
        assert lease.token == 42
        newer = await coordinator.acquire("l", "me", LONG_S, 2**40)
        assert newer is not None
        assert newer.token == 2**40 + 1

    async def test_a_lease_ends_by_itself(self, coordinator: Coordinator) -> None:
        old = await coordinator.acquire("l", "me", 0.02, 0)
        assert old is not None
        async with asyncio.timeout(5):
            while (new := await coordinator.acquire("l", "you", LONG_S, 0)) is None:
                pass
        assert new.token > old.token
        await coordinator.release(old)
        assert await coordinator.acquire("l", "me", LONG_S, 0) is None

    async def test_a_released_lease_is_free(self, coordinator: Coordinator) -> None:
        mine = await coordinator.acquire("l", "me", LONG_S, 0)
        assert mine is not None
        await coordinator.release(Lease("l", "you", mine.token))
        assert await coordinator.acquire("l", "you", LONG_S, 0) is None
        await coordinator.release(mine)
        assert await coordinator.acquire("l", "you", LONG_S, 0) is not None

    async def test_a_bucket_is_emptied_and_says_when_it_is_not(
        self, coordinator: Coordinator
    ) -> None:
        charges = [await coordinator.charge("b", 1, FEW) for _ in range(4)]
        assert [charge.allowed for charge in charges] == [True, True, True, False]
        assert [charge.remaining for charge in charges] == [2, 1, 0, 0]
        assert 0 < charges[-1].retry_after_s <= 20
        assert (await coordinator.charge("other", 3, FEW)).allowed

    async def test_a_charge_is_all_or_nothing(self, coordinator: Coordinator) -> None:
        assert (await coordinator.charge("b", 2, FEW)).allowed
        refused = await coordinator.charge("b", 2, FEW)
        assert (refused.allowed, refused.remaining) == (False, 1)
        assert (await coordinator.charge("b", 1, FEW)).allowed

    async def test_more_than_the_bucket_holds_is_allowed_when_it_is_full(
        self, coordinator: Coordinator
    ) -> None:
        assert (await coordinator.charge("b", 7, FEW)).allowed
        refused = await coordinator.charge("b", 1, FEW)
        assert not refused.allowed
        # Four below zero, and one to have: five thirds of a minute.
        assert 95 < refused.retry_after_s <= 100

    async def test_a_refund_fills_up_to_the_brim(self, coordinator: Coordinator) -> None:
        await coordinator.charge("b", 3, FEW)
        await coordinator.refund("b", 2, FEW)
        assert (await coordinator.charge("b", 2, FEW)).allowed
        await coordinator.refund("b", 100, FEW)
        assert (await coordinator.charge("b", 1, FEW)).remaining == 2
        await coordinator.refund("b", -4, FEW)
        assert not (await coordinator.charge("b", 1, FEW)).allowed

    async def test_many_at_once_get_what_there_is(self, coordinator: Coordinator) -> None:
        rate = Rate(per_minute=50)
        charges = await asyncio.gather(*(coordinator.charge("b", 1, rate) for _ in range(80)))
        # A bucket of 50 fills by one in more than a second.
        assert 50 <= sum(charge.allowed for charge in charges) <= 54


class TestRedis:
    async def test_processes_share_leases_and_buckets(self, redis_url: str) -> None:
        prefix = next(prefixes)
        one, two = RedisCoordinator(redis_url, prefix), RedisCoordinator(redis_url, prefix)
        elsewhere = RedisCoordinator(redis_url, next(prefixes))
        leases = await asyncio.gather(
            *(one.acquire("l", "one", LONG_S, 0) for _ in range(10)),
            *(two.acquire("l", "two", LONG_S, 0) for _ in range(10)),
        )
        assert len({lease.holder for lease in leases if lease}) == 1
        assert sum(lease is not None for lease in leases) == 10
        assert (await one.charge("b", 3, FEW)).allowed
        assert not (await two.charge("b", 1, FEW)).allowed
        assert (await elsewhere.charge("b", 1, FEW)).allowed
        assert await elsewhere.acquire("l", "three", LONG_S, 0) is not None
        for coordinator in (one, two, elsewhere):
            await coordinator.close()

    async def test_one_that_does_not_answer_is_lost(self) -> None:
        coordinator = RedisCoordinator("redis://127.0.0.1:1/0", "x")
        with pytest.raises(CoordinationLost):
            await coordinator.charge("b", 1, FEW)
        with pytest.raises(CoordinationLost):
            await coordinator.acquire("l", "me", LONG_S, 0)
        await coordinator.close()


@pytest.fixture
def own() -> Iterator[OwnRedis]:
    with running(OwnRedis()) as server:
        yield server


async def test_a_redis_that_dies_and_comes_back_empty(
    own: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sessions.coordination")
    clock, lost = Clock(), []
    both = [
        FallbackCoordinator(RedisCoordinator(own.url, "p"), lambda: lost.append(1), clock)
        for _ in range(2)
    ]
    one, two = both
    first = await one.acquire("l", "one", LONG_S, 0)
    assert first is not None
    assert await two.acquire("l", "two", LONG_S, first.token) is None

    own.kill()
    # Each alone: a token above what the database knows, limits of its own, and no error.
    alone = await two.acquire("l", "two", LONG_S, first.token)
    assert alone is not None
    assert alone.token > first.token
    assert [(await c.charge("b", 3, FEW)).allowed for c in both] == [True, True]
    assert [c.alone for c in both] == [True, True]
    tries = len(lost)
    assert [(await c.charge("b", 1, FEW)).allowed for c in both] == [False, False]
    assert len(lost) == tries == 2
    clock.now += RETRY_S
    assert [(await c.charge("c", 1, FEW)).allowed for c in both] == [True, True]
    assert len(lost) == 4

    own.start()
    clock.now += RETRY_S
    again = await one.acquire("l", "one", LONG_S, alone.token)
    assert again is not None
    assert again.token > alone.token
    assert await two.acquire("l", "two", LONG_S, again.token) is None
    assert [c.alone for c in both] == [False, False]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["INFO"] * 2
    for coordinator in both:
        await coordinator.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 90)),
        st.tuples(st.just("charge"), st.integers(1, 20)),
        st.tuples(st.just("refund"), st.integers(-5, 5)),
        st.tuples(st.just("acquire"), st.sampled_from("ab")),
        st.tuples(st.just("release"), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_memory_follows_a_model(steps: list[tuple[str, float | str]]) -> None:
    """Units as a line through time; a lease as a name until a time."""
    clock, rate, ttl = Clock(), Rate(per_minute=10), 30.0
    coordinator = MemoryCoordinator(clock)
    units, holder, until, newest = 10.0, "", 0.0, 0
    leases: list[Lease] = []

    async def follow() -> None:
        nonlocal units, holder, until, newest
        for what, value in steps:
            if what == "wait":
                clock.now += float(value)
                units = min(10.0, units + float(value) * 10 / 60)
            elif what == "charge":
                asked = int(value)
                charge = await coordinator.charge("b", asked, rate)
                short = min(asked, 10) - units
                if abs(short) > 1e-6:
                    assert charge.allowed == (short < 0)
                    if short > 0:
                        assert charge.retry_after_s == pytest.approx(short * 6)
                units -= asked if charge.allowed else 0
            elif what == "refund":
                await coordinator.refund("b", int(value), rate)
                units = min(10.0, units + int(value))
            elif what == "acquire":
                lease = await coordinator.acquire("l", str(value), ttl, newest)
                free = clock.now >= until or not holder
                assert (lease is not None) == (free or holder == value)
                if lease is not None:
                    assert lease.token == (newest + 1 if free else newest)
                    holder, until, newest = str(value), clock.now + ttl, lease.token
                    leases.append(lease)
            elif leases:
                await coordinator.release(leases[-1])
                if leases[-1].token == newest:
                    holder = ""

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(follow())
