"""What every policy of prefixes promises."""

from collections.abc import Callable

import pytest

from cache_tiers.eviction.arc import AdaptiveReplacement
from cache_tiers.eviction.fixed_ttl import FixedTtl
from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.eviction.recency import Recency
from cache_tiers.eviction.s3_fifo import S3Fifo
from cache_tiers.types import SessionKey
from load.simulate.clairvoyant import Clairvoyant

A, B, C = (SessionKey(f"t/{name}") for name in "abc")


def turn(policy: PrefixPolicy, session: SessionKey, chunks: int, now: float) -> None:
    """A turn that leaves all of a chain in the tier."""
    policy.began(session, now)
    policy.holds(session, chunks, now)
    policy.ended(session, chunks, now + 1)


def cuts(policy: PrefixPolicy, now: float) -> list[tuple[SessionKey, int]]:
    return [(cut.session, cut.keep) for cut in policy.victims(now)]


def emptied(policy: PrefixPolicy, held: dict[SessionKey, int], now: float) -> list[SessionKey]:
    """Make every cut, and tell of it; the sessions in the order in which they left."""
    left = []
    for cut in policy.victims(now):
        assert cut.keep >= 0
        if cut.keep < held[cut.session]:
            held[cut.session] = cut.keep
            policy.holds(cut.session, cut.keep, now)
            if not cut.keep:
                left.append(cut.session)
    return left


class Promises:
    """Kept by every policy."""

    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        raise NotImplementedError

    def test_there_is_nothing_to_cut_in_an_empty_tier(self, policy: PrefixPolicy) -> None:
        assert cuts(policy, 0.0) == []
        policy.began(A, 0.0)
        policy.ended(A, 5, 1.0)
        assert cuts(policy, 1.0) == []

    def test_cuts_reach_all_that_is_idle(self, policy: PrefixPolicy) -> None:
        for number, session in enumerate((A, B, C)):
            turn(policy, session, 4 + number, 10.0 * number)
        left = emptied(policy, {A: 4, B: 5, C: 6}, 50.0)
        assert sorted(left) == [A, B, C]
        assert cuts(policy, 50.0) == []

    def test_what_came_without_a_turn_is_reached(self, policy: PrefixPolicy) -> None:
        policy.holds(A, 3, 0.0)
        assert emptied(policy, {A: 3}, 1.0) == [A]

    def test_a_session_with_a_turn_under_way_is_not_named(self, policy: PrefixPolicy) -> None:
        turn(policy, A, 4, 0.0)
        turn(policy, B, 4, 10.0)
        policy.began(A, 20.0)
        policy.holds(A, 6, 20.0)
        assert {session for session, _ in cuts(policy, 21.0)} == {B}
        policy.ended(A, 6, 30.0)
        assert {session for session, _ in cuts(policy, 31.0)} == {A, B}

    def test_what_has_left_or_is_forgotten_is_not_named(self, policy: PrefixPolicy) -> None:
        for session in (A, B, C):
            turn(policy, session, 4, 0.0)
        policy.holds(A, 0, 2.0)
        policy.forget(B)
        assert {session for session, _ in cuts(policy, 3.0)} == {C}
        policy.forget(A)
        policy.forget(SessionKey("t/nobody"))
        turn(policy, B, 2, 4.0)
        assert {session for session, _ in cuts(policy, 6.0)} == {B, C}

    def test_what_a_cut_leaves_is_named_again(self, policy: PrefixPolicy) -> None:
        turn(policy, A, 9, 0.0)
        policy.holds(A, 2, 2.0)
        assert emptied(policy, {A: 2}, 3.0) == [A]

    def test_stopping_early_changes_nothing(self, policy: PrefixPolicy) -> None:
        for session in (A, B, C):
            turn(policy, session, 4, 0.0)
        first = next(policy.victims(5.0))
        assert next(policy.victims(5.0)) == first


def test_promises_are_the_same_every_time() -> None:
    """Twice the same calls, twice the same cuts."""

    def run(make: Callable[[], PrefixPolicy]) -> list[list[tuple[SessionKey, int]]]:
        policy = make()
        seen = []
        for number in range(60):
            session = SessionKey(f"t/{number * 7 % 11}")
            turn(policy, session, 1 + number % 5, 10.0 * number)
            if number % 9 == 8:
                seen.append(cuts(policy, 10.0 * number + 5))
        return seen

    for make in MAKERS:
        assert run(make) == run(make)


class TestRecency(Promises):
    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        return Recency()

    def test_the_longest_unused_goes_first(self, policy: PrefixPolicy) -> None:
        for number, session in enumerate((A, B, C, A)):
            turn(policy, session, 4, 10.0 * number)
        assert cuts(policy, 50.0) == [(B, 0), (C, 0), (A, 0)]


class TestFixedTtl(Promises):
    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        return FixedTtl(60.0)

    def test_who_is_over_its_time_goes_first_and_then_the_newest(
        self, policy: PrefixPolicy
    ) -> None:
        for number, session in enumerate((A, B, C)):
            turn(policy, session, 4, 30.0 * number)
        assert cuts(policy, 62.0) == [(A, 0), (C, 0), (B, 0)]
        assert cuts(policy, 500.0) == [(A, 0), (B, 0), (C, 0)]


class TestAdaptiveReplacement(Promises):
    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        return AdaptiveReplacement(100)

    def test_who_came_once_gives_way_to_who_came_again(self, policy: PrefixPolicy) -> None:
        for number, session in enumerate((A, A, B, C)):
            turn(policy, session, 4, 10.0 * number)
        assert cuts(policy, 50.0) == [(B, 0), (C, 0), (A, 0)]

    def test_it_learns_to_keep_what_it_misses(self, policy: PrefixPolicy) -> None:
        turn(policy, A, 4, 0.0)
        turn(policy, A, 4, 10.0)
        turn(policy, B, 4, 20.0)
        policy.holds(B, 0, 30.0)
        turn(policy, B, 4, 40.0)
        turn(policy, C, 4, 50.0)
        assert cuts(policy, 60.0) == [(A, 0), (B, 0), (C, 0)]


class TestS3Fifo(Promises):
    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        return S3Fifo(40)

    def test_who_comes_once_goes_before_who_came_often(self, policy: PrefixPolicy) -> None:
        for number, session in enumerate((A, A, A, B, C)):
            turn(policy, session, 4, 10.0 * number)
        assert cuts(policy, 60.0) == [(B, 0), (C, 0), (A, 0)]

    def test_who_is_remembered_is_not_new(self, policy: PrefixPolicy) -> None:
        turn(policy, A, 4, 0.0)
        policy.holds(A, 0, 5.0)
        turn(policy, A, 4, 10.0)
        turn(policy, B, 4, 20.0)
        assert cuts(policy, 30.0) == [(B, 0), (A, 0)]


class TestClairvoyant(Promises):
    @pytest.fixture
    def policy(self) -> PrefixPolicy:
        return Clairvoyant()

    def test_who_is_back_last_goes_first(self, policy: Clairvoyant) -> None:
        for session, at in ((A, 100.0), (B, 300.0), (C, 200.0)):
            turn(policy, session, 4, 0.0)
            policy.foresee(session, at, 4)
        assert cuts(policy, 10.0) == [(B, 0), (C, 0), (A, 0)]

    def test_what_no_request_needs_goes_before_all(self, policy: Clairvoyant) -> None:
        for session, at, needed in ((A, 100.0, 1), (B, 300.0, 4)):
            turn(policy, session, 4, 0.0)
            policy.foresee(session, at, needed)
        assert cuts(policy, 10.0) == [(A, 1), (B, 0), (A, 0)]


MAKERS: tuple[Callable[[], PrefixPolicy], ...] = (
    Recency,
    lambda: FixedTtl(60.0),
    lambda: AdaptiveReplacement(20),
    lambda: S3Fifo(20),
    Clairvoyant,
)
