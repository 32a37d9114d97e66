"""When the SSD is told what is expected of sessions, and what."""

from dataclasses import dataclass

import pytest

from cache_tiers.eviction.expectation import Expectation, MakeExpectation
from cache_tiers.manifest import Manifests
from cache_tiers.returns.unknown import unknown_rate
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.ssd_outlook import MOST_TORN, NEAR, TOLD_EVERY_S, SsdOutlook
from tests.outlooks import FakeCosts, FakeReturns, Steady

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("t/c")
LIMIT = 1000
EPOCH = 1e9


def chain(session: SessionKey, chunks: int = 8) -> list[ChunkKey]:
    return [ChunkKey(f"{session}{n}".encode()) for n in range(chunks)]


@dataclass
class Stats:
    bytes_used: int = LIMIT
    bytes_limit: int = LIMIT
    evicted_chunks: int = 0


class Store:
    """What is told."""

    def __init__(self) -> None:
        self.said = Stats()
        self.torn: tuple[SessionKey, ...] = ()
        self.told: list[MakeExpectation] = []

    def stats(self) -> Stats:
        return self.said

    def expect(self, expected: MakeExpectation) -> None:
        self.told.append(expected)


@dataclass
class Ssd:
    store: Store
    manifests: Manifests


@dataclass
class Manager:
    ssd: Ssd | None


class Sessions:
    def __init__(self, manifests: Manifests) -> None:
        self.chain = manifests.get
        self.above: dict[SessionKey, int] = {}
        self.asked = 0

    def at_hand(self, session: SessionKey) -> int:
        self.asked += 1
        return self.above.get(session, 0)


class Bench:
    def __init__(self) -> None:
        manifests = Manifests.in_memory(lambda: EPOCH - 60)
        for session in (A, B, C):
            manifests.replace(session, chain(session))
        self.store = Store()
        self.manager = Manager(Ssd(self.store, manifests))
        self.sessions = Sessions(manifests)
        self.returns = FakeReturns()
        self.running: set[SessionKey] = set()
        self.outlook = SsdOutlook(
            self.manager,
            self.sessions,
            self.returns,
            FakeCosts(token_s=0.001),
            self.running,
            tokens_per_chunk=16,
            wall_clock=lambda: EPOCH,
        )

    def poll(self, now: float = 100.0) -> int:
        """How often something was told."""
        before = len(self.store.told)
        self.outlook.poll(now)
        return len(self.store.told) - before

    def told(self) -> Expectation:
        assert self.poll() == 1
        return self.store.told[-1]()

    def above(self) -> dict[SessionKey, int]:
        return {stake.session: stake.above for stake in self.told().stakes if stake.above}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_store_that_is_far_from_its_limit_is_told_nothing(bench: Bench) -> None:
    bench.store.said.bytes_used = int(NEAR * LIMIT) - 1
    assert bench.poll() == 0
    bench.store.said.bytes_used += 1
    assert bench.poll(100.0 + TOLD_EVERY_S) == 1


def test_one_that_evicts_nevertheless_is_told(bench: Bench) -> None:
    bench.store.said = Stats(bytes_used=0, evicted_chunks=3)
    assert bench.poll(100.0) == 1
    assert bench.poll(200.0) == 0
    bench.store.said.evicted_chunks = 4
    assert bench.poll(300.0) == 1


def test_every_few_seconds(bench: Bench) -> None:
    times = [100.0 + n / 2 for n in range(40)]
    assert sum(bench.poll(now) for now in times) == round(20 / TOLD_EVERY_S)


def test_without_an_ssd_there_is_nothing_to_do(bench: Bench) -> None:
    bench.manager.ssd = None
    assert bench.poll() == 0


def test_who_is_away_who_runs_and_of_whom_nothing_is_known(bench: Bench) -> None:
    bench.returns.expect(A, Steady(0.25), since=90.0)
    bench.running.add(B)
    told = bench.told()
    assert told.now == EPOCH
    assert told.price.upto(10) == pytest.approx(0.16)
    assert [stake.chain for stake in told.stakes] == [tuple(chain(s)) for s in (A, B, C)]
    rates = {stake.session: stake.rate for stake in told.stakes}
    assert rates == pytest.approx({A: 0.25, B: unknown_rate(0.0), C: unknown_rate(60.0)}, rel=0.01)


def test_who_is_not_predicted_rightly_is_as_if_nothing_were_known(bench: Bench) -> None:
    bench.returns.expect(A, Steady(0.25), since=90.0)
    bench.returns.distrusted = {A}
    rates = {stake.session: stake.rate for stake in bench.told().stakes}
    assert rates[A] == rates[C] == pytest.approx(unknown_rate(60.0), rel=0.01)


def test_what_was_told_does_not_change_with_what_happens_next(bench: Bench) -> None:
    bench.returns.expect(A, Steady(0.25), since=90.0)
    assert bench.poll() == 1
    bench.returns.forget(A, 101.0)
    bench.running.add(A)
    rates = [stake.rate for stake in bench.store.told[0]().stakes]
    assert rates[0] == pytest.approx(0.25, rel=0.01)


def test_what_tiers_above_have_of_torn_sessions(bench: Bench) -> None:
    bench.sessions.above = {A: 6, B: 2, C: 5}
    bench.store.torn = (A, B)
    assert bench.above() == {A: 6, B: 2}


def test_it_is_asked_for_few(bench: Bench) -> None:
    bench.store.torn = (A,) * (3 * MOST_TORN)
    bench.told()
    assert bench.sessions.asked == MOST_TORN
