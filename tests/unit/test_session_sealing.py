import pytest

from sessions.sealing import SealBroken, Sealer

SECRET = b"s" * 32


def test_what_is_sealed_opens_as_itself_alone() -> None:
    sealer = Sealer(SECRET)
    sealed = sealer.seal("ann", "answer", "resp_1", b"hello")
    assert b"hello" not in sealed
    assert sealer.open("ann", "answer", "resp_1", sealed) == b"hello"
    for others in (
        ("bob", "answer", "resp_1"),
        ("ann", "input", "resp_1"),
        ("ann", "answer", "resp_2"),
    ):
        with pytest.raises(SealBroken):
            sealer.open(*others, sealed)


def test_another_secret_opens_nothing() -> None:
    sealed = Sealer(SECRET).seal("ann", "answer", "resp_1", b"hello")
    with pytest.raises(SealBroken):
        Sealer(b"t" * 32).open("ann", "answer", "resp_1", sealed)


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-1], lambda s: s[:5], lambda s: b"", lambda s: s[::-1]]
)
def test_damaged_content_does_not_open(damage: object) -> None:
    sealer = Sealer(SECRET)
    sealed = sealer.seal("ann", "answer", "resp_1", b"hello")
    with pytest.raises(SealBroken):
        sealer.open("ann", "answer", "resp_1", damage(sealed))  # type: ignore[operator]


def test_equal_contents_do_not_look_equal() -> None:
    sealer = Sealer(SECRET)
    assert sealer.seal("a", "k", "n", b"x" * 32) != sealer.seal("a", "k", "n", b"x" * 32)
