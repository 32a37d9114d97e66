"""What a store is told of sessions: what is lost with a chunk, and of whom nothing is known."""

import math

import pytest

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.eviction.noted import Away, Noted
from cache_tiers.manifest import LEFT, Manifests
from cache_tiers.returns.types import Outlook
from cache_tiers.returns.unknown import unknown_rate
from cache_tiers.types import ChunkKey, SessionKey
from tests.outlooks import FakeCosts, Never, Sharp, Steady

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("t/c")
EVEN = Price(1.0, 0.0)
CHAIN = tuple(ChunkKey(bytes([n])) for n in range(6))


def expectation(*stakes: Stake, price: Price = EVEN, now: float = 0.0) -> Expectation:
    return Expectation(stakes, price, now)


@pytest.mark.parametrize("late_s", [0.0, 1e-5])
def test_a_price_is_that_of_the_costs_it_was_read_off(late_s: float) -> None:
    costs = FakeCosts(token_s=0.001, late_s=late_s)
    price = Price.of(costs, 16)
    for chunks in (0, 1, 7, 500, 5000):
        assert price.upto(chunks) == pytest.approx(costs.compute_s(0, 16 * chunks))


def test_with_a_chunk_goes_everything_behind_it_and_late_chunks_are_dearer() -> None:
    stake = Stake(A, CHAIN[:3], 0, rate=0.5)
    useful = expectation(stake, price=Price(1.0, 2.0)).useful(CHAIN)
    assert list(useful) == list(CHAIN[:3])
    # Chunks cost 2, 4 and 6 seconds.
    assert list(useful.values()) == pytest.approx([0.5 * 12, 0.5 * 10, 0.5 * 6])


def test_who_share_a_chunk_add_up() -> None:
    useful = expectation(Stake(A, CHAIN[:2], 0, 0.5), Stake(B, CHAIN[:1], 0, 0.25)).useful(CHAIN)
    assert useful == {CHAIN[0]: 0.5 * 2 + 0.25, CHAIN[1]: 0.5}


def test_what_is_behind_a_hole_is_of_no_use_unless_it_is_filled_from_above() -> None:
    held = {*CHAIN} - {CHAIN[2]}
    assert list(expectation(Stake(A, CHAIN, 0, 1.0)).useful(held)) == list(CHAIN[:2])
    assert list(expectation(Stake(A, CHAIN, 2, 1.0)).useful(held)) == list(CHAIN[:2])
    assert list(expectation(Stake(A, CHAIN, 3, 1.0)).useful(held)) == list(CHAIN)


def test_of_whom_nothing_is_known_is_worth_less_the_longer_it_is_gone_but_never_nothing() -> None:
    rates = [unknown_rate(10.0**n) for n in range(-2, 6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    assert unknown_rate(-5.0) == unknown_rate(0.0) == rates[0]
    assert unknown_rate(math.inf) == 0.0


def test_what_is_nobodys_is_worth_as_much_as_a_beginning() -> None:
    told = expectation(price=Price(2.0, 1.0), now=1000.0)
    assert told.of_nobody(3, last_used=990.0) == pytest.approx(3 * unknown_rate(10.0) * 2.5)


class Book:
    """Manifests by a clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = 0.0
        self.manifests = Manifests.in_memory(lambda: self.now)

    def hold(self, at: float, session: str, chunks: int = 2) -> None:
        self.now = at
        self.manifests.replace(SessionKey(session), CHAIN[:chunks])

    def rates(
        self, away: dict[SessionKey, Outlook], *running: SessionKey
    ) -> dict[SessionKey, float]:
        noted = Noted(
            manifests=self.manifests,
            away={session: Away(outlook, 10.0) for session, outlook in away.items()},
            running=frozenset(running),
            above={A: 1},
            price=EVEN,
            now=1000.0,
        )
        told = noted.expectation()
        assert (told.now, told.price) == (1000.0, EVEN)
        assert [stake.above for stake in told.stakes] == [
            int(stake.session == A) for stake in told.stakes
        ]
        return {stake.session: stake.rate for stake in told.stakes}


def test_rates_are_predicted_where_they_can_be_and_by_recency_where_not() -> None:
    book = Book()
    for at, session in ((400.0, A), (400.0, B), (900.0, C), (999.0, "t/d")):
        book.hold(at, session)
    rates = book.rates({A: Steady(0.01), B: Never()})
    assert rates[A] == pytest.approx(0.01, rel=0.01)
    assert rates[B] == unknown_rate(600.0), "longer away than was thought possible"
    assert rates[C] == unknown_rate(100.0) < rates[SessionKey("t/d")] == unknown_rate(1.0)


def test_nothing_can_be_had_again_in_time_so_returns_to_come_count_from_now_on() -> None:
    book = Book()
    book.hold(0.0, A)
    book.hold(0.0, B)
    rates = book.rates({A: Sharp(70.0), B: Sharp(20.0)})
    assert rates == pytest.approx({A: 1 / 60, B: 1 / 10}, rel=0.1)


def test_whose_turn_runs_is_as_good_as_back() -> None:
    book = Book()
    book.hold(0.0, A)
    assert book.rates({A: Never()}, A) == {A: unknown_rate(0.0)}


def test_what_was_left_behind_is_at_nobodys_stake_and_what_was_put_aside_is() -> None:
    book = Book()
    book.hold(990.0, A)
    book.hold(990.0, A + LEFT)
    book.hold(990.0, A + "\0aside", chunks=1)
    book.hold(990.0, B, chunks=0)
    assert book.rates({A: Steady(0.5)}).keys() == {A, A + "\0aside"}
