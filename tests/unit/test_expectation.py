"""What a client says of a gap in a header."""

import pytest

from app.expectation import HEADER, BadExpectation, Expectation, expectation_of


def _read(text: str) -> Expectation:
    return expectation_of({"x-session-expect": text})


@pytest.mark.parametrize(
    ("text", "expectation"),
    [
        ("seconds=30", Expectation(30.0)),
        ("seconds=0; tool=pytest", Expectation(0.0, "pytest")),
        (" tool = a=b ;seconds=1.5;session=s_1 ", Expectation(1.5, "a=b", "s_1")),
        ("tool=mcp__git__log", Expectation(None, "mcp__git__log")),
        ("", Expectation()),
    ],
)
def test_it_says_how_long_for_what_and_whose(text: str, expectation: Expectation) -> None:
    assert _read(text) == expectation


def test_without_the_header_nothing_is_said() -> None:
    assert expectation_of({}) == Expectation()


@pytest.mark.parametrize(
    "text",
    [
        "30",
        "seconds",
        "seconds=",
        "seconds=nan",
        "seconds=inf",
        "seconds=-1",
        "seconds=604801",
        "seconds=soon",
        "seconds=1; seconds=2",
        "minutes=1",
        "session=s1",
        "seconds=1; session=a/b",
        "seconds=1; session=",
        "seconds=1;",
        "tool=",
        "tool=two words",
        "tool=" + "x" * 129,
        ";",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(BadExpectation) as refusal:
        _read(text)
    assert refusal.value.param == HEADER
