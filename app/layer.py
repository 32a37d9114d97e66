"""The one layer around the engine's application: who asks, which session, what comes back.

Only what ``served.py`` names is served.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.answers import Answer
from app.auth import tenant_salt
from app.errors import NOT_SERVED, Problem, bad_parameter, respond, too_large
from app.expectation import BadExpectation, Expectation, expectation_of
from app.gaps import Arrival
from app.histories.reading import read_request
from app.leases import BadLease, wish_of
from app.live_turn import LiveTurn
from app.quotas import Admission
from app.refusals import Refusals
from app.resolve import (
    BadSessionName,
    for_engine,
    named_in_headers,
    parse_body,
    resolve_session,
)
from app.responses.desk import Exchange, ResponseDesk
from app.served import METRICS, OPEN, is_served
from app.tenants import Tenants
from app.turn_desk import TurnDesk
from app.wire import API_OF_PATH, Api
from engine.port import TurnContext, current_turn
from sessions.identity import new_session_id, session_key

MAX_BODY_BYTES: Final = 64 * 1024 * 1024

TENANT: Final = "valet.tenant"
"""Where the ASGI scope of an authenticated request holds its tenant."""


class SessionLayer:
    """An ASGI application around the engine's."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tenants: Tenants,
        secret: bytes,
        desk: TurnDesk,
        responses: ResponseDesk,
        default_model: str,
        health: ASGIApp,
        metrics: ASGIApp,
        sessions: bool = True,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """``default_model`` is what a request without ``model`` gets. Without ``sessions`` requests
        are only kept apart by tenant."""
        self._app = app
        self._tenants = tenants
        self._secret = secret
        self._desk = desk
        self._responses = responses
        self._default_model = default_model
        self._health = health
        self._metrics = metrics
        self._sessions = sessions
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            anthropic = scope["path"].startswith(Api.MESSAGES.value)
            await self._http(scope, receive, Refusals(send, anthropic=anthropic))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        api = API_OF_PATH.get(path)
        if path == "/health" and scope["method"] == "GET":
            await self._health(scope, receive, send)
            return
        headers = _headers(scope)
        if path.startswith(METRICS):
            refusal = self._tenants.auth.refuses_operator(headers)
            await (self._metrics if refusal is None else respond(refusal))(scope, receive, send)
            return
        served = is_served(path)
        # A browser asks with OPTIONS, before it may send the key.
        if path in OPEN or (served and scope["method"] == "OPTIONS"):
            await self._app(scope, receive, send)
            return
        tenant = self._tenants.auth.tenant(headers)
        if isinstance(tenant, Problem):
            await respond(tenant)(scope, receive, send)
            return
        if not served:
            await respond(NOT_SERVED)(scope, receive, send)
            return
        admission = await self._tenants.limits.admit(tenant)
        send = admission.telling(send)
        if admission.refusal is not None:
            await respond(admission.refusal)(scope, receive, send)
        elif api is None or scope["method"] != "POST":
            await self._other({**scope, TENANT: tenant}, receive, send)
        else:
            await self._turn(api, tenant, admission, headers, scope, receive, send)

    async def _turn(
        self,
        api: Api,
        tenant: str,
        admission: Admission,
        headers: dict[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        arrival = Arrival(self._desk.gaps, tenant)
        if self._sessions:
            arrival.of(named_in_headers(headers))
        raw = await self._read(receive)
        if raw is None:
            return
        if isinstance(raw, Problem):
            await respond(raw)(scope, receive, send)
            return
        body = parse_body(raw)
        try:
            session = resolve_session(body or {}, headers, new_session_id)
            wish = wish_of(api, body or {})
            expectation = expectation_of(headers)
        except (BadSessionName, BadLease, BadExpectation) as error:
            await respond(bad_parameter(error.param, str(error)))(scope, receive, send)
            return
        if not self._sessions:
            await self._pass(tenant, admission, raw, body or {}, scope, receive, send)
            return
        if session.named:
            arrival.of(session.session_id)
        exchange: Exchange | None = None
        if api is Api.RESPONSES and body is not None:
            opened = await self._responses.open(tenant, body)
            if isinstance(opened, Problem):
                await respond(opened)(scope, receive, send)
                return
            exchange, body, raw = opened, opened.body, opened.raw
        model = (body or {}).get("model")
        model = model if isinstance(model, str) else self._default_model
        place = await self._desk.histories.find(
            tenant,
            model,
            read_request(api, body or {}),
            session.session_id if session.named else exchange.session_id if exchange else None,
            session.session_id,
            after=exchange.after if exchange else None,
        )
        if place.session_id != session.session_id:
            arrival.of(place.session_id)
        expectation = self._own(expectation, tenant, place.session_id)
        goes_on = False
        try:
            refusal = await self._tenants.refuses_turn(
                tenant, place.session_id, admission, len(raw), body or {}
            )
            goes_on = refusal is None
        finally:
            if not goes_on:
                self._desk.histories.release(tenant, place)
        if refusal is not None:
            await respond(refusal)(scope, receive, send)
            return
        if body is not None:
            raw = for_engine(raw, body)
        salt = tenant_salt(self._secret, tenant)
        turn = LiveTurn(self._desk, tenant, place, model, salt, wish, expectation)
        token = current_turn.set(turn.context)
        try:
            await self._desk.fork(tenant, place)
            await self._app(
                {**scope, "headers": _headers_for_engine(scope, len(raw)), TENANT: tenant},
                _replay(raw, receive),
                Answer(send, api, turn, named=session.named, exchange=exchange),
            )
        finally:
            current_turn.reset(token)
            turn.close()
            self._tenants.settle(tenant, admission, turn.context.generations)

    def _own(self, expectation: Expectation, tenant: str, session_id: str) -> Expectation:
        """What is said of this session's gap; of another one's, the engine is told."""
        other = expectation.session_id
        if other is None or other == session_id:
            return expectation
        about = session_key(tenant, other)
        self._desk.gaps.expecting(about, expectation.seconds, expectation.tool)
        return Expectation()

    async def _pass(
        self,
        tenant: str,
        admission: Admission,
        raw: bytes,
        body: dict[str, Any],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a request that belongs to no session."""
        await admission.charge_tokens(len(raw), body)
        if admission.refusal is not None:
            await respond(admission.refusal)(scope, receive, send)
            return
        raw = for_engine(raw, body)
        nobody = session_key(tenant, new_session_id())
        context = TurnContext(nobody, tenant_salt(self._secret, tenant))
        token = current_turn.set(context)
        try:
            await self._app(
                {**scope, "headers": _headers_for_engine(scope, len(raw)), TENANT: tenant},
                _replay(raw, receive),
                send,
            )
        finally:
            current_turn.reset(token)
            self._tenants.settle(tenant, admission, context.generations)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that is no turn. Its body is read here, since nothing else bounds it."""
        if scope["method"] in ("POST", "PUT", "PATCH"):
            raw = await self._read(receive)
            if raw is None:
                return
            if isinstance(raw, Problem):
                await respond(raw)(scope, receive, send)
                return
            receive = _replay(raw, receive)
        await self._app(scope, receive, send)

    async def _read(self, receive: Receive) -> bytes | Problem | None:
        """The whole body, or why not; None when the client left."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return too_large(self._max_body_bytes)
            if not message.get("more_body", False):
                return bytes(body)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _headers_for_engine(scope: Scope, length: int) -> list[tuple[bytes, bytes]]:
    """Without the client's session, which the engine would take as its own, and its length."""
    dropped = (b"x-session-id", b"content-length", b"transfer-encoding")
    kept = [header for header in scope["headers"] if header[0] not in dropped]
    return [*kept, (b"content-length", str(length).encode())]


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` for the inner application: the body that was already read, then whatever the
    client does next, so that a disconnect reaches the engine at once."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
