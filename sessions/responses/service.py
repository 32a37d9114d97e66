"""What one can do with stored responses."""

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.database import Database
from sessions.ports import Clock
from sessions.responses.content import (
    encode,
    encode_both,
    seal,
    unseal,
    unseal_both,
    unseal_item,
)
from sessions.responses.conversation_repository import ConversationRepository
from sessions.responses.limit import StoredLimit
from sessions.responses.repository import Link, ResponseRepository, Row
from sessions.responses.types import (
    MAX_CHAIN,
    MAX_CONTEXT_BYTES,
    MAX_RESPONSE_BYTES,
    Context,
    ContextTooLong,
    Item,
    NewResponse,
    ResponseNotFound,
    is_name,
)
from sessions.sealing import Sealer
from sessions.units import Write


class ResponseService:
    """Responses of all tenants. Used on one event loop; any number of calls may run at once.

    Every method may raise StateUnavailable. A method that names a response raises ResponseNotFound
    when this tenant has none of that id, or it was deleted, or its time is over.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        clock: Clock,
        *,
        ttl: timedelta,
        limit: StoredLimit,
    ) -> None:
        """A response can be had for ``ttl``."""
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._ttl = ttl
        self._limit = limit

    async def get(self, tenant: str, response_id: str) -> dict[str, Any]:
        """The response object."""
        _check_name(response_id)
        async with self._database.begin() as connection:
            row = await ResponseRepository(connection).answer(tenant, response_id, self._clock())
        if row is None:
            raise ResponseNotFound("No such response.")
        response: dict[str, Any] = unseal(self._sealer, tenant, "answer", response_id, row[0])
        _, output = unseal_both(self._sealer, tenant, response_id, row[1])
        return response | {"output": [item.content for item in output]}

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget the response. It stays part of those that continued it."""
        _check_name(response_id)
        async with self._database.begin() as connection:
            if not await ResponseRepository(connection).delete(tenant, response_id, self._clock()):
                raise ResponseNotFound("No such response.")

    async def context(self, tenant: str, response_id: str) -> Context:
        """What a request that continues the response has in front of it. Raises ContextTooLong,
        and ResponseNotFound also when something in front of the response is gone: a context is
        whole or none."""
        links, talk = await self._chain(tenant, response_id)
        if talk is None or links[0].previous_id is not None:
            raise ResponseNotFound("What is in front of the response is gone.")
        items = list(talk)
        for link in links:
            given, said = unseal_both(self._sealer, tenant, link.id, link.content)
            items += [*given, *said]
        last = links[-1]
        return Context(tuple(items), last.session_id, last.turn, thread=last.thread)

    async def input_items(self, tenant: str, response_id: str) -> tuple[Item, ...]:
        """What was in front of the answer, oldest first, as far as it is still there. Raises
        ContextTooLong."""
        links, talk = await self._chain(tenant, response_id)
        items = list(talk or ())
        for link in links:
            given, said = unseal_both(self._sealer, tenant, link.id, link.content)
            items += given if link is links[-1] else (*given, *said)
        return tuple(items)

    def storing(self, tenant: str, new: NewResponse) -> Write | None:
        """What stores the response in somebody's unit of work; None for one that is too large."""
        try:
            answer, items = encode(new.answer), encode_both(new.input, new.output)
        except RecursionError:
            return None
        size = len(answer) + len(items)
        if size > MAX_RESPONSE_BYTES or not self._limit.takes(size):
            return None
        now = self._clock()
        row = Row(
            tenant=tenant,
            id=new.id,
            session_id=new.session_id,
            turn=new.turn,
            previous_id=new.previous_id,
            thread=new.thread or new.id,
            conversation_id=new.conversation_id,
            position=new.position,
            created_at=now,
            expires_at=now + self._ttl,
            content_size=len(items),
            size=size,
            answer=seal(self._sealer, tenant, "answer", new.id, answer),
            content=seal(self._sealer, tenant, "items", new.id, items),
        )

        async def write(connection: AsyncConnection) -> None:
            await ResponseRepository(connection).add(row)
            await self._limit.added(connection, tenant, size)

        return write

    async def _chain(
        self, tenant: str, response_id: str
    ) -> tuple[list[Link], tuple[Item, ...] | None]:
        """The response's chain, oldest first, and the part of a conversation in front of it: empty
        when it is in none, None when the conversation is gone."""
        _check_name(response_id)
        now = self._clock()
        async with self._database.begin() as connection:
            links = await ResponseRepository(connection).chain(tenant, response_id)
            if not links or not links[-1].found(now):
                raise ResponseNotFound("No such response.")
            check_context(len(links), sum(link.content_size for link in links))
            talk_id, below = links[0].conversation_id, links[0].position
            if talk_id is None:
                return links, ()
            talks = ConversationRepository(connection)
            talk = await talks.find(tenant, talk_id, now)
            if talk is None:
                return links, None
            check_context(len(links), talk.size)
            found = await talks.page(tenant, talk_id, None, below=below)
        return links, tuple(unseal_item(self._sealer, tenant, talk_id, *row) for row in found)


def _check_name(response_id: str) -> None:
    if not is_name(response_id):
        raise ResponseNotFound("No such response.")


def check_context(responses: int, size: int) -> None:
    """Raises ContextTooLong for more ``responses`` in a row, or bytes of items, than allowed."""
    if responses > MAX_CHAIN or size > MAX_CONTEXT_BYTES:
        raise ContextTooLong("There is more in front of this request than one may continue.")
