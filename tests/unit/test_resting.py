"""Sessions at rest: known by their name and by the end of their history, within a bound."""

from sessions.history.points import Head
from sessions.history.resting import Resting


def _head(*hashes: bytes, turn: int = 1) -> Head:
    return Head(turn, hashes, b"")


def test_a_session_is_known_by_its_end() -> None:
    resting = Resting()
    resting.put(("t", "s"), _head(b"q", b"a"))
    assert resting.head(("t", "s")) == _head(b"q", b"a")
    assert resting.ending_with("t", b"a") == "s"
    assert resting.ending_with("t", b"q") is None
    assert resting.ending_with("other", b"a") is None
    resting.put(("t", "s"), _head(b"q", b"a", b"q2", b"a2", turn=2))
    assert resting.ending_with("t", b"a") is None
    assert resting.ending_with("t", b"a2") == "s"
    resting.drop(("t", "s"))
    assert resting.head(("t", "s")) is resting.ending_with("t", b"a2") is None
    assert not resting._ends


def test_of_two_sessions_with_one_history_the_last_is_known() -> None:
    resting = Resting()
    resting.put(("t", "first"), _head(b"a"))
    resting.put(("t", "second"), _head(b"a"))
    assert resting.ending_with("t", b"a") == "second"
    resting.drop(("t", "first"))
    assert resting.ending_with("t", b"a") == "second"
    # The same session comes to rest where it was.
    resting.put(("t", "second"), _head(b"a", turn=2))
    assert resting.ending_with("t", b"a") == "second"
    resting.drop(("t", "second"))
    assert not resting._ends


def test_memory_is_bounded() -> None:
    resting = Resting(room=10_000)
    for number in range(1000):
        resting.put(("t", f"s{number}"), _head(b"%d" % number))
    assert resting.ending_with("t", b"999") == "s999"
    assert resting.ending_with("t", b"0") is None
    assert len(resting._ends) < 40
    resting.put(("t", "huge"), _head(*(b"%d" % number for number in range(1000))))
    assert resting.head(("t", "huge")) is None
    assert not resting._ends
