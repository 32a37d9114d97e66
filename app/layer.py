"""The one layer around the engine's application: who asks, which session, what comes back.

Only the routes named here are served. The engine's application has more ways to generate (batches,
vendors' aliases), and one that does not pass through a turn would compute without its tenant's
salt, where other tenants could see by timing what was asked.
"""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.answers import Answer
from app.auth import Authenticator, tenant_salt
from app.errors import NOT_SERVED, UNAUTHENTICATED, Problem, bad_parameter, respond, too_large
from app.refusals import Refusals
from app.resolve import BadSessionName, for_engine, parse_body, resolve_session
from app.turns import TurnDesk
from app.wire import API_OF_PATH, Api
from engine.port import current_turn
from sessions.identity import new_session_id

MAX_BODY_BYTES: Final = 64 * 1024 * 1024

TENANT: Final = "valet.tenant"
"""Where the ASGI scope of an authenticated request holds its tenant."""

_OPEN = frozenset({"/health", "/ping", "/version", "/metrics", "/metrics/"})
_KEYED = frozenset(
    {
        "/v1/models",
        "/v1/sessions",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/docs",
        "/openapi.json",
    }
)
_KEYED_FOLDERS = ("/v1/sessions/", "/v1/models/")


class SessionLayer:
    """An ASGI application around the engine's."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        auth: Authenticator,
        secret: bytes,
        desk: TurnDesk,
        default_model: str,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """``default_model`` is what a request without ``model`` gets."""
        self._app = app
        self._auth = auth
        self._secret = secret
        self._desk = desk
        self._default_model = default_model
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
        # A browser asks with OPTIONS, before it may send the key.
        if path in _OPEN or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        tenant = self._auth.tenant(headers)
        if tenant is None:
            await respond(UNAUTHENTICATED)(scope, receive, send)
        elif api is None and path not in _KEYED and not path.startswith(_KEYED_FOLDERS):
            await respond(NOT_SERVED)(scope, receive, send)
        elif api is None or scope["method"] != "POST":
            await self._app({**scope, TENANT: tenant}, receive, send)
        else:
            await self._turn(api, tenant, headers, scope, receive, send)

    async def _turn(
        self,
        api: Api,
        tenant: str,
        headers: dict[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        raw = await self._read(receive)
        if raw is None:
            return
        if isinstance(raw, Problem):
            await respond(raw)(scope, receive, send)
            return
        body = parse_body(raw)
        try:
            session = resolve_session(body or {}, headers, new_session_id)
        except BadSessionName as error:
            await respond(bad_parameter(error.param, str(error)))(scope, receive, send)
            return
        if body is not None:
            raw = for_engine(raw, body)
        model = (body or {}).get("model")
        turn = self._desk.open(
            tenant,
            session.session_id,
            model if isinstance(model, str) else self._default_model,
            tenant_salt(self._secret, tenant),
        )
        token = current_turn.set(turn.context)
        try:
            await self._app(
                {**scope, "headers": _headers_for_engine(scope, len(raw)), TENANT: tenant},
                _replay(raw, receive),
                Answer(send, api, turn, named=session.named),
            )
        finally:
            current_turn.reset(token)
            turn.close()

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
