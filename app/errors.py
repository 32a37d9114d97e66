"""Every HTTP status that Valet itself decides, and the body that goes with it."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import JSONResponse

from engine.port import EngineError
from sessions.types import (
    InvalidCursor,
    InvalidSessionId,
    SessionBusy,
    SessionNotFound,
    StateUnavailable,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client hears it."""

    status: HTTPStatus
    type: str
    code: str
    message: str
    param: str | None = None


UNAUTHENTICATED = Problem(
    HTTPStatus.UNAUTHORIZED,
    "authentication_error",
    "invalid_api_key",
    "A valid API key is needed, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
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
            return Problem(
                HTTPStatus.NOT_FOUND, "not_found_error", "session_not_found", "No such session."
            )
        case SessionBusy():
            return Problem(
                HTTPStatus.CONFLICT,
                "conflict_error",
                "session_busy",
                "A turn of this session is running; try again when it has ended.",
            )
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
    headers = {"www-authenticate": "Bearer"} if problem is UNAUTHENTICATED else None
    return JSONResponse({"error": error}, status_code=problem.status, headers=headers)


def _unavailable(code: str, message: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", code, message)
