"""Histories on a real database: found, recorded, bounded, sealed, and done without."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.fake import FakeEngine
from sessions.database import Database
from sessions.history import points, service, transcript
from sessions.history.chain import Conversation, Hasher, Message
from sessions.history.place import Place
from sessions.history.points import Head, PointRepository, rewind, slot_of
from sessions.history.recognition import Relation
from sessions.history.service import Histories
from sessions.history.transcript import Transcripts, add
from sessions.lifecycle import created
from sessions.models import heads, transcripts
from sessions.models import points as points_table
from sessions.sealing import Sealer
from sessions.service import SessionService
from sessions.types import Lineage
from sessions.units import Units, Write
from tests.state_database import Backend

SECRET = b"s" * 32


class Clock:
    """A second later every time."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


class Asker:
    """A client that resends what it is told to, and the server's part that knows sessions."""

    def __init__(self, database: Database, wait_s: float = 60, tenant: str = "t") -> None:
        self.database = database
        self.sessions = SessionService(database, FakeEngine(), Clock())
        self.histories = Histories(self.sessions.units, SECRET, wait_s)
        self.tenant = tenant
        self._ids = iter(range(10_000))

    async def find(
        self,
        *texts: str,
        named: str | None = None,
        after: tuple[str, int] | None = None,
        tools: bytes = b"",
    ) -> Place:
        said = Conversation(tuple(_message(i, text) for i, text in enumerate(texts)), tools)
        new_id = f"s{next(self._ids)}"
        return await self.histories.find(self.tenant, "m", said, named, new_id, after)

    async def turn(self, *texts: str, named: str | None = None, **more: Any) -> Place:
        """The last text is the answer."""
        place = await self.find(*texts[:-1], named=named)
        await self.end(place, texts[-1], len(texts) - 1, **more)
        return place

    async def end(
        self,
        place: Place,
        answer: str,
        position: int,
        prompt: list[int] | None = None,
        tokens: list[int] | None = None,
    ) -> int:
        begun = await self.sessions.begin_turn(
            self.tenant, place.session_id, "m", lineage=place.lineage
        )
        ending = self.histories.ending(
            self.tenant,
            "m",
            place,
            begun.number,
            [_message(position, answer)],
            None if prompt is None else array("I", prompt),
            None if tokens is None else array("I", tokens),
        )
        await self.sessions.end_turn(
            begun,
            receipt={"turn": 1},
            prompt_tokens=len(prompt or "12345"),
            output_tokens=len(tokens or "12"),
            finish_reason="stop",
            also=ending.writes,
        )
        self.histories.ended(self.tenant, place.session_id, ending)
        self.histories.release(self.tenant, place)
        return begun.number


def _message(position: int, text: str) -> Message:
    role = "assistant" if position % 2 else "user"
    return Message(role, f"{role}:{text}".encode("utf-8", "replace"), len(text))


async def _head_of(database: Database, session_id: str) -> Head:
    async with database.begin() as connection:
        head = await PointRepository(connection).head("t", session_id)
    assert head is not None
    return head


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    opened = await backend.open()
    yield opened
    await opened.close()


async def test_a_long_history_is_found_by_its_longest_prefix(database: Database) -> None:
    asker = Asker(database)
    said = ["q0", "a0"]
    first = await asker.turn(*said)
    for turn in range(1, 4):
        said += [f"q{turn}", f"a{turn}"]
        assert (await asker.turn(*said)).session_id == first.session_id
    # The client went on elsewhere for longer than one query looks back.
    elsewhere = [f"x{i}" for i in range(3 * points.HASHES_A_QUERY)]
    place = await asker.find(*said, *elsewhere, "and here")
    assert (place.session_id, place.relation) == (first.session_id, Relation.CONTINUES)


async def test_a_turn_that_was_aborted_is_tried_again_in_its_session(database: Database) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a")
    place = await asker.find("q", "a", "q2")
    begun = await asker.sessions.begin_turn("t", place.session_id, "m")
    busy = await Asker(database).find("q", "a", "q2")
    assert busy.relation is Relation.FORKS
    await asker.sessions.end_turn(begun)
    asker.histories.release("t", place)
    again = await asker.find("q", "a", "q2")
    assert again.session_id == first.session_id


async def test_requests_at_once_never_find_one_session(database: Database) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a")
    found = await asyncio.gather(*(asker.find("q", "a", f"q{i}") for i in range(8)))
    assert sum(place.session_id == first.session_id for place in found) == 1
    assert len({place.session_id for place in found}) == 8
    for place in found:
        asker.histories.release("t", place)
    assert (await asker.find("q", "a", "q9")).session_id == first.session_id


async def test_equal_histories_take_a_bounded_number_of_rows(database: Database) -> None:
    asker = Asker(database)
    for _ in range(3 * points.SLOTS):
        place = await asker.turn("hello", "a" * 40)
        assert place.relation is None
    async with database.begin() as connection:
        count = await connection.scalar(select(func.count()).select_from(points_table))
    assert count is not None
    assert count <= 3 * points.SLOTS
    newest = await asker.find("hello", "a" * 40, "more")
    assert newest.session_id == place.session_id


async def test_old_points_and_transcripts_are_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "KEPT_TURNS", 4)
    monkeypatch.setattr(transcript, "KEPT_TURNS", 4)
    monkeypatch.setattr(transcript, "WHOLE_EVERY", 3)
    asker = Asker(database)
    said: list[str] = []
    tokens: list[int] = []
    for turn in range(20):
        said += [f"q{turn}", f"a{turn}"]
        tokens.append(turn)
        place = await asker.turn(*said, prompt=list(tokens), tokens=[100 + turn])
        tokens.append(100 + turn)
    async with database.begin() as connection:
        turns = set(await connection.scalars(select(points_table.c.turn)))
        rows = set(await connection.scalars(select(transcripts.c.turn)))
    assert place.chain is not None
    head = Hasher(SECRET).after("t", place.chain, _message(len(said) - 1, said[-1]))
    session = place.session_id
    kept = await Transcripts(Sealer(SECRET)).load(Units(database), "t", session, 20, (head,))
    assert turns == {17, 18, 19, 20}
    assert rows == set(range(14, 21))
    assert kept is not None
    assert list(kept.transcript.tokens) == tokens
    assert kept.transcript.spans == tuple((2 * i + 1, 2 * i + 2) for i in range(20))


async def test_transcripts_are_sealed_and_of_use_only_as_they_were(database: Database) -> None:
    asker = Asker(database)
    marker = [0x5EC2E7] * 50
    place = await asker.turn("q", "a", prompt=marker, tokens=[1])
    async with database.begin() as connection:
        sealed = (await connection.execute(select(transcripts.c.sealed))).scalar_one()
        assert array("I", marker[:2]).tobytes() not in sealed
    session, units = place.session_id, Units(database)
    whole = (await _head_of(database, session)).hashes
    opened = await Transcripts(Sealer(SECRET)).load(units, "t", session, 1, whole)
    assert opened is not None
    assert list(opened.transcript.tokens) == [*marker, 1]
    others = Transcripts(Sealer(b"x" * 32))
    assert await others.load(units, "t", session, 1, whole) is None
    async with database.begin() as connection:
        await connection.execute(
            transcripts.update().values(sealed=sealed[:-1] + bytes([sealed[-1] ^ 1]))
        )
    damaged = Transcripts(Sealer(SECRET))
    assert await damaged.load(units, "t", session, 1, whole) is None
    # What is in memory needs no database.
    assert (await asker.find("q", "a", "q2")).exact


async def test_what_is_in_memory_is_bounded() -> None:
    known = Transcripts(Sealer(SECRET), memory_bytes=10_000)
    for number in range(20):
        name, head = f"s{number}", Head(1, (b"q", b"a"), b"")
        kept = add(head, None, array("I", [1] * 500), array("I", [2])).kept
        known.remember("t", name, kept)
    assert known.at_hand("t", "s19", 1, (b"q", b"a")) is kept
    assert known.at_hand("t", "s19", 1, (b"q", b"b")) is None
    assert known.at_hand("t", "s19", 2, (b"q", b"a")) is None
    assert known.at_hand("t", "s0", 1, (b"q", b"a")) is None
    assert 10_000 - kept.bytes < known._recent.used <= 10_000


async def test_a_fork_has_a_transcript_of_its_own(database: Database) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a", prompt=[1, 2], tokens=[3])
    await asker.turn("q", "a", "q2", "a2", prompt=[1, 2, 3, 4], tokens=[5])
    fork = await asker.turn("q", "a", "other", "b", prompt=[1, 2, 3, 9], tokens=[8])
    assert fork.lineage is not None
    assert (fork.lineage.parent_id, fork.lineage.parent_turn) == (first.session_id, 1)
    assert (fork.lineage.tokens, fork.shared_tokens) == (3, 3)
    assert fork.kept is not None
    assert list(fork.kept.transcript.tokens) == [1, 2, 3]
    await asker.sessions.delete("t", first.session_id)
    fresh = Asker(database)
    place = await fresh.find("q", "a", "other", "b", "more")
    assert place.session_id == fork.session_id
    assert place.kept is not None
    assert list(place.kept.transcript.tokens) == [1, 2, 3, 9, 8]


async def test_a_fork_by_name_goes_on_with_its_parents_tokens(database: Database) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a", prompt=[1, 2], tokens=[3])
    await asker.turn("q", "a", "q2", "a2", prompt=[1, 2, 3, 4], tokens=[5])
    lineage = Lineage(first.session_id, 1, 3)
    async with database.transaction() as repo:
        forked = created("t", "fork", "m", Clock()(), lineage)
        assert await repo.add(forked)
    other = await asker.find("something", "else", "q2", named="fork")
    assert (other.relation, other.kept) == (None, None)
    asker.histories.release("t", other)
    place = await asker.turn("q", "a", "q3", "a3", named="fork", prompt=[1, 2, 3, 6], tokens=[7])
    assert place.exact
    assert place.kept is not None
    assert list(place.kept.transcript.tokens) == [1, 2, 3]
    await asker.sessions.delete("t", first.session_id)
    later = await Asker(database).find("q", "a", "q3", "a3", "q4")
    assert later.session_id == "fork"
    assert later.kept is not None
    assert list(later.kept.transcript.tokens) == [1, 2, 3, 6, 7]


@pytest.mark.parametrize("busy", [True, False])
async def test_what_is_continued_by_name_has_to_be_what_was_said(
    database: Database, busy: bool
) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a", prompt=[1, 2], tokens=[3])
    if busy:
        await asker.sessions.begin_turn("t", first.session_id, "m")
    else:
        await asker.turn("q", "a", "q2", "a2", prompt=[1, 2, 3, 4], tokens=[5])
    after = (first.session_id, 1)
    for one in (asker, Asker(database)):
        same = await one.find("q", "a", "q3", after=after)
        assert (same.relation, same.exact) == (Relation.FORKS, True)
        assert same.kept is not None
        assert list(same.kept.transcript.tokens) == [1, 2, 3]
        other = await one.find("another", "a", "q3", after=after)
        assert (other.relation, other.kept) == (Relation.FORKS, None)
        assert not other.exact
        assert not (await one.find("q", "a", "q3", after=after, tools=b"others")).exact


async def test_other_tools_are_not_continued_as_it_was_computed(database: Database) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a", prompt=[1, 2], tokens=[3])
    for one in (asker, Asker(database)):
        for named in (None, first.session_id):
            place = await one.find("q", "a", "q2", named=named, tools=b"others")
            assert place.session_id == first.session_id
            assert place.kept is not None
            assert not place.exact
            one.histories.release("t", place)


async def test_a_name_used_again_has_nothing_of_the_deleted_session(database: Database) -> None:
    asker = Asker(database)
    elsewhere = asker if database.alone else Asker(database)
    await asker.turn("q", "a" * 40, named="mine", prompt=[1, 2], tokens=[3])
    await elsewhere.sessions.delete("t", "mine")
    again = ("p", "b" * 40)
    await elsewhere.turn(*again, named="mine", prompt=[7, 8], tokens=[9])
    histories = ("more",), ("more",), ("q", "a" * 40, "more"), ("x", again[1], "more")
    for texts, named in zip(histories, (None, "mine", "mine", None), strict=True):
        said = (*again, *texts) if len(texts) == 1 else texts
        place = await asker.find(*said, named=named)
        assert place.session_id == "mine"
        assert place.head == await _head_of(database, "mine")
        assert place.kept is not None
        assert list(place.kept.transcript.tokens) == [7, 8, 9]
        assert place.exact == (len(texts) == 1)
        asker.histories.release("t", place)
    gone_on = await asker.find("q", "a" * 40, "more", after=("mine", 1))
    assert gone_on.head == await _head_of(database, "mine")
    assert not gone_on.exact
    # Now the session is busy, and it is a fork.
    fork = await asker.find("q", "a" * 40, "more", after=("mine", 1))
    assert (fork.relation, fork.kept) == (Relation.FORKS, None)


async def test_rows_of_two_conversations_never_make_one(database: Database) -> None:
    """The same was said, and thought in other tokens, in the session that has the name now."""
    asker = Asker(database)
    elsewhere = asker if database.alone else Asker(database)
    await asker.turn("q", "a", named="mine", prompt=[1, 2], tokens=[3, 3, 4])
    await elsewhere.sessions.delete("t", "mine")
    await elsewhere.turn("q", "a", named="mine", prompt=[1, 2], tokens=[5, 4])
    prompt = [1, 2, 3, 3, 4, 6]
    await asker.turn("q", "a", "q2", "a2", named="mine", prompt=prompt, tokens=[7])
    place = await Asker(database).find("q", "a", "q2", "a2", "q3", named="mine")
    assert place.head is not None
    assert place.head.turn == 2
    assert (place.kept is None) != database.alone


async def test_a_deleted_session_is_forgotten(database: Database) -> None:
    asker = Asker(database)
    await asker.turn("q", "a", named="mine", prompt=[1, 2], tokens=[3])
    await asker.turn("q", "a", named="other", prompt=[1, 2], tokens=[3])
    await asker.sessions.delete("t", "mine")
    heads_left, tokens_left = asker.histories._resting, asker.histories._transcripts._recent
    assert heads_left.head(("t", "mine")) is tokens_left.get(("t", "mine")) is None
    assert heads_left.head(("t", "other")) is not None
    assert tokens_left.get(("t", "other")) is not None


async def test_a_session_that_went_back_is_continued_from_there(database: Database) -> None:
    asker = Asker(database)
    said = ["q1", "a1", "q2", "a2", "q3", "a3"]
    for end in (2, 4, 6):
        place = await asker.turn(*said[:end])
    session = place.session_id
    async with database.transaction() as repo:
        row = await repo.find("t", session)
        assert row is not None
        await rewind(repo.connection, "t", session, 1)
        await repo.save(replace(row, head_turn=1))
    asker.sessions.units.on_changed("t", session)
    back = await asker.find(*said[:2], "another")
    assert (back.session_id, back.relation) == (session, Relation.CONTINUES)
    assert back.head is not None
    assert (back.head.turn, len(back.head.hashes)) == (1, 2)
    asker.histories.release("t", back)
    later = await asker.find(*said, "and on")
    assert later.relation is Relation.FORKS
    async with database.transaction() as repo:
        await rewind(repo.connection, "t", session, 99)
        assert await PointRepository(repo.connection).head("t", session) is None


async def test_nothing_is_left_of_a_deleted_session(database: Database) -> None:
    asker = Asker(database)
    place = await asker.turn("q", "a" * 40, prompt=[1], tokens=[2])
    await asker.sessions.delete("t", place.session_id)
    async with database.begin() as connection:
        for table in (points_table, heads, transcripts):
            assert await connection.scalar(select(func.count()).select_from(table)) == 0
    assert (await asker.find("q", "a" * 40, "q2")).relation is None


async def test_without_the_database_a_request_gets_a_new_session(backend: Backend) -> None:
    database = await backend.open(patient=False)
    try:
        asker = Asker(database)
        first = await asker.turn("q", "a")
        async with backend.locked():
            place = await asker.find("q", "a", "q2")
            named = await asker.find("q", "a", "q2", named="mine")
        assert place.relation is None
        assert named.session_id == "mine"
        assert named.head is None
        assert (await asker.find("q", "a", "q2")).session_id == first.session_id
    finally:
        await database.close()


async def test_a_session_at_rest_is_known_without_its_own_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = Asker(database)
    first = await asker.turn("q", "a", prompt=[1], tokens=[2])
    await asker.turn("q", "a", "q2", "a2", prompt=[1, 2, 3], tokens=[4])
    asked = 0
    read = database.read

    async def counted(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        return await read(*given)

    monkeypatch.setattr(database, "read", counted)
    place = await asker.find("q", "a", "q2", "a2", "q3")
    assert (place.session_id, place.relation) == (first.session_id, Relation.CONTINUES)
    assert place.exact
    # Another process may have gone on with it, where there is one.
    assert (asked == 0) == database.alone
    fork = await asker.find("q", "a", "q2", "a2", "other")
    assert fork.relation is Relation.FORKS, "it is busy"
    asker.histories.release("t", place)
    older = await asker.find("q", "a", "else")
    assert (older.relation, asked > 0) == (Relation.FORKS, True)
    named = await asker.find("q", "a", "q2", "a2", "q3", named=first.session_id)
    assert (named.session_id, named.relation, named.exact) == (first.session_id, None, True)


async def test_a_session_whose_answer_is_not_recorded_yet_is_asked_for(database: Database) -> None:
    asker = Asker(database)
    place = await asker.turn("q", "a", prompt=[1], tokens=[2])
    place = await asker.find("q", "a", "q2")
    asker.histories.answered("t", place)
    # As it was before is not what memory says now.
    again = await asker.find("q", "a", "q2", named=place.session_id)
    assert again.head == await _head_of(database, place.session_id)
    assert asker.histories._resting.head(("t", place.session_id)) is None


async def test_of_two_turns_at_once_the_last_one_is_where_a_session_rests(
    database: Database,
) -> None:
    asker = Asker(database)
    first = await asker.find("q", named="mine")
    second = await asker.find("p", named="mine")
    for place in (first, second):
        asker.histories.answered("t", place)
    asker.histories._taken.update({("t", "mine"): 2})  # ``end`` releases what is released here
    await asker.end(first, "a", 1, prompt=[1], tokens=[2])
    asker.histories.recorded("t", "mine")
    said = Conversation((_message(0, "q"), _message(1, "a"), _message(2, "q2")))
    chain = asker.histories._hasher.chain("t", "m", said)
    assert asker.histories._at_hand("t", chain, None) is None, "the second is being recorded"
    await asker.end(second, "b", 1, prompt=[3], tokens=[4])
    asker.histories.recorded("t", "mine")
    assert (await asker.find("q", "a", "q2")).relation is Relation.FORKS
    assert (await asker.find("p", "b", "p2")).relation is Relation.CONTINUES


async def test_late_writes_may_change_where_any_session_rests(database: Database) -> None:
    asker = Asker(database)
    place = await asker.turn("q", "a", prompt=[1], tokens=[2])
    assert asker.histories._resting.head(("t", place.session_id)) is not None

    async def late(_: AsyncConnection) -> None:
        pass

    asker.sessions.units.postpone(late)
    async with asker.sessions.units.begin():
        pass
    assert asker.histories._resting.head(("t", place.session_id)) is None


async def test_what_has_a_place_keeps_it_though_writes_were_postponed(database: Database) -> None:
    asker, order = Asker(database), list[str]()
    units = asker.sessions.units

    def noting(name: str) -> Write:
        async def write(_: AsyncConnection) -> None:
            order.append(name)

        return write

    async def refused(connection: AsyncConnection) -> None:
        order.append("refused")
        await PointRepository(connection).put_head("t", "none", Head(1, (b"h",), b""))
        raise IntegrityError("refused", None, Exception())

    units.postpone(noting("postponed"))
    ticket = units.ticket()
    assert (ticket is not None) == database.alone
    later = asyncio.create_task(units.run(noting("later")))
    if ticket is not None:
        await asyncio.wait_for(ticket.hurry.wait(), 60)
    await units.run(noting("first"), ticket)
    await later
    ran = [name for name in order if name != "postponed"]
    assert (ran if database.alone else sorted(ran)) == ["first", "later"]
    order.clear()
    units.postpone(refused)
    await units.run(noting("work"), units.ticket())
    assert order[-1] == "work"
    # Beside the work where that had a place, with the other postponed ones, by itself, no more.
    assert order.count("refused") == (3 if database.alone else 2)


async def test_an_ending_that_was_not_stored_is_not_known(database: Database) -> None:
    asker = Asker(database)
    place = await asker.find("q")
    begun = await asker.sessions.begin_turn("t", place.session_id, "m")
    ending = asker.histories.ending("t", "m", place, begun.number, [_message(1, "a")])
    asker.histories.ended("t", place.session_id, ending)
    assert asker.histories._resting.head(("t", place.session_id)) is None
    await asker.sessions.end_turn(begun, receipt={"turn": 1}, also=ending.writes)
    asker.histories.ended("t", place.session_id, ending)
    assert asker.histories._resting.head(("t", place.session_id)) == ending.head


async def test_nobody_waits_for_a_slow_database(database: Database) -> None:
    asker = Asker(database, wait_s=0)
    async with database.begin():
        place = await asker.find("q", "a", "q2")
        assert place.relation is None
    await asyncio.gather(*asker.histories._looking)
    asker.histories.release("t", place)
    # What came too late holds nothing.
    assert not asker.histories._taken


async def test_one_tenants_requests_keep_no_other_from_looking(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_WAITING_OF_ONE", 2)
    await Asker(database, tenant="other").turn("q", "a")
    asker = Asker(database)
    first = await asker.turn("q", "a")
    async with database.begin():
        asked = [asyncio.create_task(asker.find(f"q{i}", "a", "q2")) for i in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1, "the third one does not wait"
        asker.tenant = "other"
        others = asyncio.create_task(asker.find("q", "a", "q2"))
        if not database.alone:
            assert (await others).relation is Relation.CONTINUES
    assert (await others).relation is Relation.CONTINUES
    await asyncio.gather(*asked)
    asker.tenant = "t"
    assert (await asker.find("q", "a", "q2")).session_id == first.session_id


def test_sessions_share_few_slots() -> None:
    assert {slot_of(f"s{i}") for i in range(1000)} == set(range(points.SLOTS))
