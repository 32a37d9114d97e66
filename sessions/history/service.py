"""Finds the session that a request belongs to, and records what was said in it.

Reading is bounded in time and never on the way of a token: without an answer of the database the
request is served in a new session, or, named, without knowledge of what was said before.
"""

import asyncio
import logging
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.history.chain import Chain, Conversation, Hasher, Message
from sessions.history.ending import Ending, ending_of
from sessions.history.parting import forked_from, parent_of
from sessions.history.place import Place
from sessions.history.points import HASHES_A_QUERY, Head, NewPoint, PointRepository
from sessions.history.recent import Name
from sessions.history.recognition import Match, Point, Relation, choose
from sessions.history.resting import Resting
from sessions.history.transcript import Added, Kept, Transcripts, add
from sessions.repository import SessionRepository
from sessions.sealing import Sealer
from sessions.types import Lineage, PointKind, Session, StateUnavailable
from sessions.units import Units

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 256
"""Look-ups that run at once; a further request does not wait for one of its own."""
MAX_WAITING_OF_ONE: Final = 64
"""Those of one tenant: no other one's requests go without."""
MAX_PREFIXES: Final = 4096
"""Prefixes of one history that are looked up, the longest ones."""


class Histories:
    """Histories of all tenants. Used on one event loop, by any number of tasks."""

    def __init__(self, units: Units, secret: bytes, wait_s: float) -> None:
        """``secret`` is the installation's; ``wait_s`` is how long a request waits to learn which
        session it belongs to."""
        self._units = units
        self._hasher = Hasher(secret)
        self._transcripts = Transcripts(Sealer(secret))
        self._resting = Resting()
        self._wait_s = wait_s
        self._taken: Counter[Name] = Counter()
        self._recording: Counter[Name] = Counter()
        self._looking: dict[asyncio.Task[Place], str] = {}
        units.on_changed = self.forget
        units.on_late = self._resting.clear

    async def find(
        self,
        tenant: str,
        model: str,
        said: Conversation | None,
        named: str | None,
        new_id: str,
        after: tuple[str, int] | None = None,
    ) -> Place:
        """Where a request belongs: in the session ``named``, in one that its history continues, or
        in a new one, ``new_id``. ``after`` is the session and turn that it says it continues, which
        then decide instead of its history. The session is taken until ``release``: meanwhile no
        other request is found to continue it."""
        chain = None if said is None else self._hasher.chain(tenant, model, said)
        if chain is not None and after is None:
            place = self._at_hand(tenant, chain, named)
            if place is not None:
                return self._take(tenant, place)
        unknown = Place(named or new_id, chain)
        if chain is None or not self._may_look(tenant):
            return self._take(tenant, unknown)
        look = asyncio.create_task(self._look(tenant, chain, named, unknown, after))
        self._looking[look] = tenant
        look.add_done_callback(self._looking.pop)
        in_time = False
        try:
            await asyncio.wait((look,), timeout=self._wait_s)
            in_time = look.done()
        finally:
            if not in_time:
                look.add_done_callback(lambda late: self._too_late(tenant, late))
        return look.result() if in_time else self._take(tenant, unknown)

    def release(self, tenant: str, place: Place) -> None:
        """The request is over."""
        _one_less(self._taken, (tenant, place.session_id))

    def answered(self, tenant: str, place: Place) -> None:
        """The request's answer is ready, and what its ending writes is in the database before
        whatever is asked of that from now on. ``recorded`` has to follow."""
        name = tenant, place.session_id
        self._recording[name] += 1
        self._resting.drop(name)
        self.release(tenant, place)

    def recorded(self, tenant: str, session_id: str) -> None:
        """What was answered is in the database, or will never be."""
        _one_less(self._recording, (tenant, session_id))

    def forget(self, tenant: str, session_id: str) -> None:
        """Have nothing of a session in memory: it was deleted, or went back to an earlier turn."""
        self._resting.drop((tenant, session_id))
        self._transcripts.remember(tenant, session_id, None)

    def ending(
        self,
        tenant: str,
        model: str,
        place: Place,
        turn: int,
        answers: Sequence[Message],
        prompt: "array[int] | None" = None,
        answer: "array[int] | None" = None,
    ) -> Ending:
        """What a turn's end writes of its history. ``answers`` are the choices that the client may
        go on with; ``prompt`` and ``answer`` are the conversation's tokens, where they are known
        and what the client was given is all of them. See ``ended``."""
        chain, session_id = place.chain, place.session_id
        self._resting.drop((tenant, session_id))
        if chain is None:
            return Ending()
        asked, count = chain.hashes[-1], len(chain.hashes)
        points = [NewPoint(asked, PointKind.ASKED, count)] if count >= chain.first else []
        hashes = chain.hashes
        for message in answers:
            after = self._hasher.after(tenant, chain, message)
            points.append(NewPoint(after, PointKind.ANSWERED, count + 1))
            alone = self._hasher.answer(tenant, model, message)
            if alone is not None:
                points.append(NewPoint(alone, PointKind.ANSWER, count + 1))
            if hashes is chain.hashes:
                hashes = (*hashes, after)
        head = Head(turn, hashes, chain.tools)
        added: Added | None = None
        if prompt is not None and answer is not None and len(answers) == 1:
            # A fork's rows are its own: nothing of the parent's may be needed for them.
            before = None if place.relation is Relation.FORKS else place.kept
            added = add(head, before, prompt, answer)
        self._transcripts.remember(tenant, session_id, added.kept if added else None)
        return ending_of(tenant, session_id, head, points, self._transcripts, added)

    def ended(self, tenant: str, session_id: str, ending: Ending) -> None:
        """The unit of work with an ending's writes was committed."""
        if ending.head is not None and ending.is_stored:
            self._resting.put((tenant, session_id), ending.head)

    def _too_late(self, tenant: str, look: asyncio.Task[Place]) -> None:
        if not look.cancelled() and look.exception() is None:
            self.release(tenant, look.result())

    def _may_look(self, tenant: str) -> bool:
        if len(self._looking) < MAX_WAITING_OF_ONE:
            return True
        own = sum(1 for other in self._looking.values() if other == tenant)
        return len(self._looking) < MAX_WAITING and own < MAX_WAITING_OF_ONE

    def _at_hand(self, tenant: str, chain: Chain, named: str | None) -> Place | None:
        """The place of a request that goes on where a session rests, as far as memory knows, and
        where nobody but this process changes sessions: the first rule of ``recognition``."""
        if not self._units.alone:
            return None
        end = chain.hashes[chain.answered - 1] if chain.answered else b""
        session_id = named or self._resting.ending_with(tenant, end)
        if session_id is None:
            return None
        name = tenant, session_id
        if name in self._taken or name in self._recording:
            return None
        head = self._resting.head(name)
        if head is None:
            return None
        kept = self._transcripts.at_hand(tenant, session_id, head.turn, head.hashes[-1:])
        if kept is None:
            return None
        relation = None if named else Relation.CONTINUES
        return Place(session_id, chain, relation=relation, head=head, kept=kept)

    def _take(self, tenant: str, place: Place) -> Place:
        self._taken[tenant, place.session_id] += 1
        return place

    async def _look(
        self,
        tenant: str,
        chain: Chain,
        named: str | None,
        unknown: Place,
        after: tuple[str, int] | None,
    ) -> Place:
        try:
            if named is not None:
                head, kept = await self._present(tenant, named)
                if head is None:
                    return self._take(tenant, await self._begun_elsewhere(tenant, named, chain))
                return self._take(tenant, Place(named, chain, head=head, kept=kept))
            if after is None:
                match = await self._match(tenant, chain)
            else:
                match = await self._after(tenant, *after)
            if match is None:
                return self._take(tenant, unknown)
            if match.relation is Relation.FORKS:
                return self._take(tenant, await self._fork(tenant, match, chain, unknown))
            place = Place(match.session_id, chain, relation=match.relation)
            # Taken before anything else is waited for: two requests never find one session.
            self._take(tenant, place)
            try:
                head, kept = await self._present(tenant, match.session_id, match)
            except BaseException:
                self.release(tenant, place)
                raise
            return Place(place.session_id, chain, relation=match.relation, head=head, kept=kept)
        except StateUnavailable:
            return self._take(tenant, unknown)

    async def _match(self, tenant: str, chain: Chain) -> Match | None:
        """Looks for the longest histories first; most requests end there."""
        answer = chain.answer
        hashes = chain.hashes[max(0, chain.first - 1) :][-MAX_PREFIXES:]
        while hashes:
            some, hashes = hashes[-HASHES_A_QUERY:], hashes[:-HASHES_A_QUERY]
            met = await self._units.read(partial(_met, tenant, some, answer))
            match = choose(chain, [self._as_taken(tenant, point) for point in met])
            if match is not None:
                return match
            answer = None
        return None

    async def _after(self, tenant: str, session_id: str, turn: int) -> Match | None:
        """The session goes on where the turn is its present, and forks where it is not."""
        session = await self._units.read(partial(_found, tenant, session_id))
        if session is None:
            return None
        busy = session.running > 0 or (tenant, session_id) in self._taken
        present = session.head_turn == turn and not busy
        return Match(Relation.CONTINUES if present else Relation.FORKS, session_id, turn)

    def _as_taken(self, tenant: str, point: Point) -> Point:
        """The point of a session that a request of this process is on its way to is busy."""
        if (tenant, point.session_id) not in self._taken:
            return point
        return replace(point, busy=True)

    async def _present(
        self, tenant: str, session_id: str, match: Match | None = None
    ) -> tuple[Head | None, Kept | None]:
        """What was said up to the session's head. What is in memory has to be what ``match`` met:
        it may be of a deleted session that had the name."""
        head = self._resting.head((tenant, session_id))
        met = None if match is None else (match.turn, match.history)
        if head is None or (head.turn, head.hashes[-1]) != met:
            head = await self._units.read(partial(_head, tenant, session_id))
        if head is None:
            return None, None
        own = (head.hashes[-1],)
        return head, await self._transcripts.load(self._units, tenant, session_id, head.turn, own)

    async def _begun_elsewhere(self, tenant: str, named: str, chain: Chain) -> Place:
        """The first turn of a session that the client forked goes on where its parent was."""
        found = await self._units.read(partial(forked_from, tenant, named))
        if found is None:
            return Place(named, chain)
        kept = await self._parting(tenant, chain, *found)
        if kept is None:
            return Place(named, chain)
        return Place(named, chain, relation=Relation.FORKS, kept=kept)

    async def _fork(self, tenant: str, match: Match, chain: Chain, unknown: Place) -> Place:
        parent, turn = match.session_id, match.turn
        if not turn:
            # They have a question in common and no answer: two sessions that began alike.
            return unknown
        tokens, shared, known = await self._units.read(partial(parent_of, tenant, match))
        return Place(
            unknown.session_id,
            chain,
            Lineage(parent, turn, tokens),
            shared,
            Relation.FORKS,
            kept=await self._parting(tenant, chain, parent, turn, known),
        )

    async def _parting(
        self, tenant: str, chain: Chain, parent: str, turn: int, known: set[bytes]
    ) -> Kept | None:
        """The parent's conversation after the turn, where the request begins with it: a client that
        names what it continues may have changed what is in front. ``known`` are its histories."""
        begun = known.intersection(chain.hashes)
        if not begun:
            return None
        return await self._transcripts.load(self._units, tenant, parent, turn, begun)


def _one_less(count: Counter[Name], name: Name) -> None:
    """Counters grow with what goes on, not with every session that there was."""
    count[name] -= 1
    if not count[name]:
        del count[name]


async def _met(
    tenant: str, hashes: Sequence[bytes], answer: bytes | None, connection: AsyncConnection
) -> list[Point]:
    return await PointRepository(connection).met(tenant, hashes, answer)


async def _head(tenant: str, session_id: str, connection: AsyncConnection) -> Head | None:
    return await PointRepository(connection).head(tenant, session_id)


async def _found(tenant: str, session_id: str, connection: AsyncConnection) -> Session | None:
    return await SessionRepository(connection).find(tenant, session_id)
