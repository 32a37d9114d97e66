"""What segments are worth, and what is stranded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.ssd import worths
from cache_tiers.ssd.extent import Extent, Seal
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.worths import Worths
from cache_tiers.types import ChunkKey, SessionKey

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("t/c")
NOW = 1000.0
SEAL = Seal(0, bytes(12), bytes(48), bytes(16))
EVEN = Price(1.0, 0.0)


class Keys:
    owners = frozenset({0})
    kept = frozenset[bytes]()


def chain(letters: str) -> tuple[ChunkKey, ...]:
    """A chunk a letter."""
    return tuple(ChunkKey(letter.encode()) for letter in letters)


class Bench:
    """Segments of letters, and what is expected of chains of letters."""

    def __init__(self, *segments: str) -> None:
        self.index = Index(Keys())
        self.worths = Worths(self.index)
        for number, letters in enumerate(segments, 1):
            self.write(number, letters)

    def write(self, segment: int, letters: str) -> None:
        page = 10 * self.index.live(segment)[0]
        puts = [(key, Extent(segment, page + i, 1, SEAL)) for i, key in enumerate(chain(letters))]
        self.index.add(segment, puts)

    def lose(self, letters: str) -> None:
        for key, extent in self.index.forget(chain(letters)):
            assert key
            self.worths.left(extent.segment)

    def expect(self, *stakes: Stake, price: Price = EVEN) -> None:
        self.worths.tell(lambda: Expectation(stakes, price, NOW))

    def of(self, segment: int) -> float:
        """Its chunks of nobody are forgotten by all."""
        self.worths.settle()
        return self.worths.of(segment, self.index.live(segment)[0], last_used=-math.inf)

    def stranded(self) -> str:
        self.worths.settle()
        found = []
        for segment in range(1, 10):
            chunks = self.worths.stranded_chunks(segment)
            assert len(chunks) == self.worths.stranded(segment)
            assert chunks <= {key for key, _ in self.index.of_segment(segment)}
            found += [key.decode() for key in chunks]
        return "".join(sorted(found))


def stake(session: SessionKey, letters: str, rate: float = 1.0, above: int = 0) -> Stake:
    return Stake(session, chain(letters), above, rate)


def test_before_anything_was_told_nothing_is_known() -> None:
    bench = Bench("ab")
    assert bench.of(1) == math.inf


def test_a_segment_is_worth_what_its_first_chunk_and_all_behind_it_cost() -> None:
    bench = Bench("ab", "cd", "ef")
    bench.expect(stake(A, "abcd", 0.5), price=Price(1.0, 2.0))
    # Chunks cost 2, 4, 6 and 8 seconds.
    assert [bench.of(n) for n in (1, 2, 3)] == [0.5 * 20, 0.5 * 14, 0.0]


def test_sessions_that_share_a_segment_add_up() -> None:
    bench = Bench("abx", "cy")
    bench.expect(stake(A, "abc", 0.5), stake(B, "xy", 0.25), stake(C, "ab", 0.125))
    assert bench.of(1) == 0.5 * 3 + 0.25 * 2 + 0.125 * 2
    assert bench.of(2) == 0.5 * 1 + 0.25 * 1


def test_what_is_nobodys_is_judged_by_recency_once_however_many_hold_the_rest() -> None:
    bench = Bench("abzzz")
    bench.write(1, "uvw")
    told = Expectation((stake(A, "ab"), stake(B, "ab")), EVEN, NOW)
    bench.worths.tell(lambda: told)
    bench.worths.settle()
    assert bench.index.live(1)[0] == 6
    fresh = bench.worths.of(1, 5, last_used=NOW - 10)
    assert fresh - bench.of(1) == pytest.approx(told.of_nobody(3, NOW - 10))


def test_what_was_written_since_is_nobodys() -> None:
    bench = Bench("a")
    bench.expect(stake(A, "a"))
    bench.worths.settle()
    bench.write(2, "xyz")
    assert bench.worths.of(2, 3, last_used=NOW) > 0


def test_what_is_expected_is_asked_for_once_when_it_is_needed() -> None:
    bench = Bench("a")
    asked = []

    def make() -> Expectation:
        asked.append(1)
        return Expectation((stake(A, "a"),), EVEN, NOW)

    bench.worths.tell(make)
    assert not asked
    bench.of(1)
    bench.of(1)
    assert len(asked) == 1


def test_what_is_behind_a_hole_is_stranded_and_worth_nothing() -> None:
    bench = Bench("ab", "cd", "ef")
    bench.expect(stake(A, "abcdef"))
    assert bench.stranded() == ""
    bench.lose("cd")
    assert bench.stranded() == "ef"
    assert bench.worths.torn == (A,)
    assert (bench.of(1), bench.of(3)) == (2.0, 0.0)


def test_it_is_of_use_again_when_the_hole_is_filled() -> None:
    bench = Bench("ab", "cd", "ef")
    bench.expect(stake(A, "abcdef"))
    bench.lose("bcd")
    assert bench.stranded() == "ef"
    bench.write(4, "b")
    bench.expect(stake(A, "abcdef"))
    assert bench.stranded() == "ef", "another hole is behind it"
    bench.write(4, "cd")
    bench.expect(stake(A, "abcdef"))
    assert bench.stranded() == ""
    assert bench.worths.torn == ()
    assert (bench.of(1), bench.of(4), bench.of(3)) == (6.0, 5.0, 2.0)


def test_a_hole_that_a_tier_above_fills_strands_nothing() -> None:
    bench = Bench("ab", "cd", "ef")
    bench.expect(stake(A, "abcdef"))
    bench.lose("bc")
    assert bench.stranded() == "def"
    bench.expect(stake(A, "abcdef", above=3))
    assert bench.stranded() == ""
    assert bench.worths.torn == (A,)
    assert bench.of(3) == 2.0
    bench.expect(stake(A, "abcdef", above=2))
    assert bench.stranded() == "def"


def test_what_is_of_use_to_another_is_not_stranded() -> None:
    bench = Bench("ab", "cd", "ef")
    bench.lose("b")
    bench.expect(stake(A, "abcd"), stake(B, "abcdef", above=2))
    assert bench.stranded() == ""
    bench.expect(stake(A, "abcd"), stake(B, "abcdef"))
    assert bench.stranded() == "cdef"


def test_a_chain_that_goes_on_elsewhere_and_a_session_that_is_gone() -> None:
    bench = Bench("abcd", "xy")
    bench.expect(stake(A, "abcd"))
    bench.lose("b")
    assert bench.stranded() == "cd"
    bench.expect(stake(A, "axy"))
    assert bench.stranded() == ""
    assert bench.of(2) == 2.0
    bench.expect()
    assert (bench.of(1), bench.of(2)) == (0.0, 0.0)


def test_a_chain_that_grew_or_was_cut_is_followed() -> None:
    bench = Bench("ab", "cd")
    bench.expect(stake(A, "ab"))
    assert (bench.of(1), bench.of(2)) == (2.0, 0.0)
    bench.expect(stake(A, "abcd"))
    assert (bench.of(1), bench.of(2)) == (4.0, 2.0)
    bench.expect(stake(A, "a"))
    assert (bench.of(1), bench.of(2)) == (1.0, 0.0)


def test_a_chunk_that_was_written_elsewhere_is_followed() -> None:
    bench = Bench("ab", "c")
    bench.expect(stake(A, "abc"))
    assert bench.of(1) == 3.0
    bench.write(3, "b")
    bench.worths.left(1)
    assert [bench.of(n) for n in (1, 2, 3)] == [3.0, 1.0, 2.0]


def test_a_stranded_chunk_that_comes_back_to_be_stranded_again() -> None:
    bench = Bench("a", "b", "c")
    bench.expect(stake(A, "abc"))
    bench.lose("b")
    assert bench.stranded() == "c"
    bench.lose("c")
    bench.write(4, "c")
    assert bench.stranded() == "c"


def test_after_everything_was_looked_at_anew_it_is_known_again() -> None:
    bench = Bench("ab", "cd")
    bench.expect(stake(A, "abcd"))
    bench.lose("b")
    assert bench.stranded() == "cd"
    bench.index.reset(None)
    bench.worths.reset()
    bench.write(5, "acd")
    assert bench.stranded() == "cd"
    assert bench.of(5) == 1.0


def test_a_large_expectation_is_taken_over_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worths, "_LOOKED_UP_AT_ONCE", 3)
    bench = Bench("abc", "def", "ghi")
    stakes = [stake(A, "abc"), stake(B, "def"), stake(C, "ghi")]
    seen = []
    for _ in range(3):
        bench.expect(*stakes)
        seen.append([bench.of(n) > 0 for n in (1, 2, 3)])
    assert seen == [[True, False, False], [True, True, False], [True, True, True]]
    bench.expect(*(replace(each, chain=(*each.chain, *chain("xyz"))) for each in stakes))
    assert [bench.of(n) for n in (1, 2, 3)] == [3.0] * 3, "known as they were"


def outcome(order: Sequence[int], make: Callable[[], Bench]) -> list[tuple[float, float, str]]:
    bench = make()
    seen = []
    for lost in order:
        bench.lose("abcdefghi"[lost])
        seen.append((bench.of(1), bench.of(3), bench.stranded()))
    return seen


def test_the_same_again_gives_the_same() -> None:
    def make() -> Bench:
        bench = Bench("abc", "def", "ghi")
        bench.expect(stake(A, "abcdef", 0.1), stake(B, "abghi", 0.7), stake(C, "ab", 0.3))
        return bench

    assert outcome([4, 1, 8], make) == outcome([4, 1, 8], make)
