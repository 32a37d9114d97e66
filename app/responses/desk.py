"""A request to the Responses API and its answer, between the client, the engine and what is stored.

A response is stored in the unit of work that ends its turn, before the client has the last of it.
Where that fails the answer says that it is not stored, and it never is.
"""

import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Problem, bad_parameter, problem_of
from app.live_turn import LiveTurn
from app.responses.items import said
from app.responses.request import BadResponsesRequest, Wish, body_for_engine, parse_wish
from app.sse import encode_json
from sessions.responses.conversations import ConversationService
from sessions.responses.service import ResponseService
from sessions.responses.types import Context, NewResponse, ResponseNotFound
from sessions.types import SessionError
from sessions.units import Write

PREVIOUS_NOT_FOUND = Problem(
    HTTPStatus.NOT_FOUND,
    "invalid_request_error",
    "previous_response_not_found",
    "There is no such response to continue.",
    "previous_response_id",
)


@dataclass(frozen=True, slots=True)
class ResponseDesk:
    """Opens exchanges."""

    responses: ResponseService
    conversations: ConversationService

    async def open(self, tenant: str, body: dict[str, Any]) -> "Exchange | Problem":
        """The exchange that a request begins, or why it cannot."""
        try:
            wish = parse_wish(body)
        except BadResponsesRequest as error:
            return bad_parameter(error.param, str(error))
        context = None
        try:
            if wish.previous_id is not None:
                context = await self.responses.context(tenant, wish.previous_id)
            elif wish.conversation_id is not None:
                context = await self.conversations.context(tenant, wish.conversation_id)
        except ResponseNotFound:
            return PREVIOUS_NOT_FOUND
        except SessionError as error:
            problem = problem_of(error)
            if problem is None:
                raise
            return problem
        try:
            return Exchange(self, tenant, wish, context, body)
        except RecursionError:
            return bad_parameter("input", "The input is nested too deeply.")


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        desk: ResponseDesk,
        tenant: str,
        wish: Wish,
        context: Context | None,
        body: dict[str, Any],
    ) -> None:
        self._desk = desk
        self._tenant = tenant
        self._wish = wish
        self._context = context
        self._id = f"resp_{secrets.token_hex(24)}"
        self._told = False
        self._written = False
        self.body = body_for_engine(body, context, self._id)
        """The request as the engine may see it."""
        self.raw = encode_json(self.body)

    @property
    def session_id(self) -> str | None:
        """The session of the conversation that the request names."""
        return self._context.session_id if self._wish.conversation_id and self._context else None

    @property
    def after(self) -> tuple[str, int] | None:
        """Session and turn of the response that the request continues."""
        context = self._context
        if context is None or context.turn is None:
            return None
        return context.session_id, context.turn

    def dress(self, response: dict[str, Any]) -> None:
        """Say in a response object, of an answer or an event, what the engine does not know."""
        response["id"] = self._id
        response["previous_response_id"] = self._wish.previous_id
        talk = self._wish.conversation_id
        response["conversation"] = None if talk is None else {"id": talk}
        response["store"] = self._wish.store

    def keeping(self, response: dict[str, Any], turn: LiveTurn) -> Write:
        """What stores the finished ``response`` with the end of ``turn``."""

        async def write(connection: AsyncConnection) -> None:
            # An end that could not be stored is tried again later, when the client has been told.
            if self._told or turn.number is None or not self._wish.store:
                return
            writes = self._writes(response, turn.session_id, turn.number)
            for each in writes:
                await each(connection)
            self._written = bool(writes)

        return write

    def told(self, response: dict[str, Any], *, recorded: bool) -> None:
        """Say in the finished ``response`` whether it is stored; what was not stored by now never
        will be. ``recorded``: the end of its turn is."""
        self._told = True
        response["store"] = self._written and recorded

    def _writes(self, response: dict[str, Any], session_id: str, turn: int) -> list[Write]:
        wish, context = self._wish, self._context
        output = said(response.get("output"))
        new = NewResponse(
            id=self._id,
            session_id=session_id,
            turn=turn,
            answer={k: v for k, v in response.items() if k != "output"},
            input=wish.input,
            output=output,
            previous_id=wish.previous_id,
            thread=None if context is None else context.thread,
            conversation_id=wish.conversation_id,
            position=0 if context is None else context.position,
        )
        store = self._desk.responses.storing(self._tenant, new)
        if store is None:
            return []
        writes = [store]
        if wish.conversation_id is not None:
            items = (*wish.input, *output)
            conversations = self._desk.conversations
            writes.append(conversations.appending(self._tenant, wish.conversation_id, items))

        return writes
