"""What is served of all that the engine's application has.

That has more ways to generate (batches, vendors' aliases), and one that does not pass through a
turn would compute without its tenant's salt, where other tenants could see by timing what was
asked.
"""

from typing import Final

from fastapi import FastAPI

from app.wire import API_OF_PATH

OPEN: Final = frozenset({"/health", "/ping", "/version"})
"""Paths that need no key."""
METRICS: Final = "/metrics"
"""The engine's application shows its metrics on every path that begins so, to any method."""
_KEYED = frozenset(
    {
        "/v1/models",
        "/v1/sessions",
        "/v1/audit",
        "/v1/conversations",
        "/v1/tenant",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/docs",
        "/openapi.json",
    }
)
_KEYED_FOLDERS = ("/v1/sessions/", "/v1/models/", "/v1/responses/", "/v1/conversations/")
_OURS = "/v1/responses/"
"""Where the engine has routes that Valet has its own of."""


def is_served(path: str) -> bool:
    """Whether a path is there for those with a key."""
    return path in API_OF_PATH or path in _KEYED or path.startswith(_KEYED_FOLDERS)


def keep_served(engine_app: FastAPI) -> None:
    """Take every other route from the engine's application, before Valet's own are added: neither
    served nor listed in ``/openapi.json``."""
    routes = engine_app.router.routes
    routes[:] = [route for route in routes if _is_kept(getattr(route, "path", ""))]


def _is_kept(path: str) -> bool:
    if path.startswith(_OURS):
        return False
    return path in OPEN or path.startswith(METRICS) or is_served(path)
