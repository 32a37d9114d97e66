"""Which point of which session decides, and what hashes show."""

from datetime import UTC, datetime, timedelta

from sessions.history.chain import Chain, Conversation, Hasher, Message, common
from sessions.history.changes import Change, change
from sessions.history.points import Head
from sessions.history.recognition import Match, Point, Relation, choose
from sessions.types import PointKind

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HASHER = Hasher(b"s" * 32)


def _message(role: str, text: str) -> Message:
    return Message(role, f"{role}:{text}".encode(), len(text))


def _chain(*texts: str, tenant: str = "t", model: str = "m", system: bool = False) -> Chain:
    roles = ("user", "assistant")
    said = [_message(roles[i % 2], text) for i, text in enumerate(texts)]
    if system:
        said.insert(0, _message("system", "rules"))
    return HASHER.chain(tenant, model, Conversation(tuple(said)))


def _point(
    hashed: bytes,
    session: str,
    turn: int = 1,
    *,
    head: int | None = None,
    kind: PointKind = PointKind.ANSWERED,
    busy: bool = False,
    age_s: int = 0,
) -> Point:
    at = NOON - timedelta(seconds=age_s)
    return Point(hashed, kind, session, turn, turn if head is None else head, busy, at)


HISTORY = _chain("q1", "a" * 40, "q2", "b" * 40, "q3", system=True)
"""Messages: system, q1, a, q2, b, q3."""
ANSWER = HISTORY.answer or b""


def _goes_on(session: str, turn: int, last: int) -> Match:
    return Match(Relation.CONTINUES, session, turn, history=HISTORY.hashes[last])


def test_what_a_chain_knows() -> None:
    assert (HISTORY.first, HISTORY.answered, len(HISTORY.hashes)) == (2, 5, 6)
    assert _chain("q").answered == 0
    assert _chain("q", "short", "q").answer is None
    assert len({hashed for chain in (HISTORY, _chain("q1")) for hashed in chain.hashes}) == 7


def test_a_hash_is_of_one_tenant_one_model_and_one_secret() -> None:
    said = Conversation((_message("user", "q"), _message("assistant", "a" * 40)))
    chains = [
        Hasher(secret).chain(tenant, model, said)
        for secret in (b"a" * 32, b"b" * 32)
        for tenant in ("t", "u")
        for model in ("m", "n")
    ]
    assert len({chain.hashes for chain in chains}) == len({chain.answer for chain in chains}) == 8


def test_the_last_answer_of_a_session_goes_on() -> None:
    points = [
        _point(HISTORY.hashes[4], "s", 2),
        _point(HISTORY.hashes[2], "s", 1, head=2),
        _point(HISTORY.hashes[5], "other", 2, kind=PointKind.ASKED),
    ]
    assert choose(HISTORY, points) == _goes_on("s", 2, 4)


def test_of_equal_histories_the_most_recent_one_goes_on() -> None:
    points = [_point(HISTORY.hashes[4], name, age_s=age) for name, age in (("x", 9), ("y", 1))]
    assert choose(HISTORY, points) == _goes_on("y", 1, 4)
    points.append(_point(HISTORY.hashes[4], "z", busy=True))
    assert choose(HISTORY, points) == _goes_on("y", 1, 4)


def test_an_answer_in_a_changed_history_goes_on_rewritten() -> None:
    points = [
        _point(HISTORY.hashes[2], "short", 1),
        _point(ANSWER, "s", 7, kind=PointKind.ANSWER),
    ]
    assert choose(HISTORY, points) == Match(Relation.REWRITES, "s", 7)
    older = _point(ANSWER, "s", 7, head=8, kind=PointKind.ANSWER)
    assert choose(HISTORY, [points[0], older]) == _goes_on("short", 1, 2)
    assert choose(HISTORY, [older]) is None


def test_an_older_answer_is_a_fork() -> None:
    points = [_point(HISTORY.hashes[4], "s", 2, head=3), _point(HISTORY.hashes[2], "s", 1, head=3)]
    assert choose(HISTORY, points) == Match(Relation.FORKS, "s", 2)


def test_a_session_that_answers_just_now_is_forked() -> None:
    assert choose(HISTORY, [_point(HISTORY.hashes[4], "s", 2, busy=True)]) == Match(
        Relation.FORKS, "s", 2
    )


def test_a_request_repeated_is_a_fork_of_the_state_before() -> None:
    points = [
        _point(HISTORY.hashes[5], "s", 3, kind=PointKind.ASKED),
        _point(HISTORY.hashes[4], "s", 2, head=3),
        _point(HISTORY.hashes[2], "s", 1, head=3),
    ]
    assert choose(HISTORY, points) == Match(Relation.FORKS, "s", 2, asked=3)


def test_nothing_met_is_a_new_session() -> None:
    assert choose(HISTORY, []) is None
    assert choose(HISTORY, [_point(b"x" * 16, "s")]) is None


def test_where_histories_part_is_found() -> None:
    a = _chain("q1", "a", "q2", "b", "q3").hashes
    for at in range(5):
        texts = ["q1", "a", "q2", "b", "q3"]
        texts[at] = "other"
        assert common(a, _chain(*texts).hashes) == at
    assert common(a, a) == 5
    assert common(a, a[:3]) == common(a[:3], a) == 3
    assert common(a, ()) == 0


def test_what_changed_is_named() -> None:
    head = Head(1, HISTORY.hashes[:5], HISTORY.tools)
    assert change(head, HISTORY) is None
    changed = change(head, _chain("q1", "a" * 40, "other", "b" * 40, "q3", system=True))
    assert changed == Change(3)
    assert changed.what == "message 3 changed"
    cut = change(head, _chain("q1", "a" * 40, system=True))
    assert cut == Change(3, cut=True)
    tools = change(Head(1, HISTORY.hashes[:5], b"other"), HISTORY)
    assert tools == Change(None)
