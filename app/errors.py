"""Every HTTP status that Valet itself decides, and the body that goes with it."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import JSONResponse

from engine.port import EngineError
from sessions.responses.types import (
    ContextTooLong,
    ConversationNotFound,
    ItemNotFound,
    ResponseNotFound,
)
from sessions.tenancy.types import QuotaExceeded
from sessions.types import (
    CheckpointExists,
    CheckpointNotFound,
    InvalidCursor,
    InvalidSessionId,
    NoSuchTier,
    PinRefused,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    StateUnavailable,
    TooManyCheckpoints,
    TurnNotFound,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client hears it."""

    status: HTTPStatus
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    """Whole seconds after which it may work; None when waiting does not help."""


UNAUTHENTICATED = Problem(
    HTTPStatus.UNAUTHORIZED,
    "authentication_error",
    "invalid_api_key",
    "A valid API key is needed, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
)
OPERATOR_NEEDED = Problem(
    HTTPStatus.UNAUTHORIZED,
    "authentication_error",
    "operator_key_needed",
    "This is the operator's: VALET_OPERATOR_KEY is needed, as 'Authorization: Bearer KEY'.",
)
KEYS_UNKNOWN = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "service_unavailable_error",
    "keys_unavailable",
    "API keys cannot be checked now.",
    retry_after_s=2,
)
TOO_MANY_SESSIONS = Problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "sessions",
    "session_quota_exceeded",
    "You have as many sessions as your quota allows: delete one, or go on with one.",
    retry_after_s=60,
)
NOT_SERVED = Problem(
    HTTPStatus.NOT_FOUND, "not_found_error", "unknown_route", "There is no such route."
)


def too_large(limit: int) -> Problem:
    """A request body of more than ``limit`` bytes."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "request_too_large",
        "request_too_large",
        f"The request's body is larger than {limit} bytes.",
    )


def bad_parameter(param: str, message: str) -> Problem:
    """A parameter that cannot be used."""
    return Problem(
        HTTPStatus.BAD_REQUEST, "invalid_request_error", "invalid_parameter", message, param
    )


def problem_of(error: Exception) -> Problem | None:
    """The problem that an exception is to the client; None for one that is not foreseen.

    The messages never repeat what an engine or a database said: that is for the log.
    """
    match error:
        case InvalidSessionId():
            return bad_parameter("session_id", str(error))
        case InvalidCursor():
            return bad_parameter("after", str(error))
        case SessionNotFound():
            return _missing("session_not_found", "No such session.")
        case ResponseNotFound():
            return _unknown("response_not_found", str(error))
        case ConversationNotFound():
            return _unknown("conversation_not_found", str(error))
        case ItemNotFound():
            return _unknown("item_not_found", str(error))
        case ContextTooLong():
            return bad_parameter("input", str(error))
        case SessionBusy():
            return _conflict(
                "session_busy", "A turn of this session is running; try again when it has ended."
            )
        case TurnNotFound():
            return _missing("turn_not_found", str(error))
        case CheckpointNotFound():
            return _missing("checkpoint_not_found", str(error))
        case SessionExists():
            return _conflict("session_exists", str(error))
        case CheckpointExists():
            return _conflict("checkpoint_exists", str(error))
        case TooManyCheckpoints():
            return _conflict("too_many_checkpoints", str(error))
        case NoSuchTier():
            return bad_parameter("tier", str(error))
        case PinRefused():
            return Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limit_error",
                "pin_budget_exceeded",
                str(error),
                retry_after_s=error.retry_after_s,
            )
        case QuotaExceeded():
            return TOO_MANY_SESSIONS
        case StateUnavailable():
            return _unavailable("state_unavailable", "The state database is not available.")
        case EngineError():
            return _unavailable("engine_unavailable", "The engine could not do it.")
        case _:
            return None


def respond(problem: Problem) -> JSONResponse:
    """The answer, in OpenAI's shape."""
    error = {
        "type": problem.type,
        "message": problem.message,
        "param": problem.param,
        "code": problem.code,
    }
    headers = {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    return JSONResponse({"error": error}, status_code=problem.status, headers=headers)


def _unknown(code: str, message: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "invalid_request_error", code, message)


def _missing(code: str, message: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "not_found_error", code, message)


def _conflict(code: str, message: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "conflict_error", code, message)


def _unavailable(code: str, message: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", code, message)
