"""What the application needs of an engine.

An engine serves the OpenAI routes as an ASGI application of its own (vLLM's), tells a
``TurnObserver`` what each generation did with its KV, and takes control commands for sessions.

Errors::

    EngineError            the root
    ├── EngineDead         the engine is gone and will not come back
    └── CommandFailed      the engine answered that it could not carry a command out
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import FastAPI

from cache_tiers.hints import (
    BrokenPin,
    Dropped,
    EngineInfo,
    Foresight,
    Hint,
    KvReport,
    Pinned,
    Prefetched,
    Pulse,
    SessionKv,
    TenantBytes,
)
from cache_tiers.types import SessionKey, Tier


class EngineError(Exception):
    """The engine failed."""


class EngineDead(EngineError):
    """The engine process is gone."""


class CommandFailed(EngineError):
    """The engine could not carry the command out."""


@dataclass(slots=True)
class Generation:
    """One generation of the engine, filled in while it runs. Times are ``time.monotonic`` seconds;
    a time that never came is None."""

    started_at: float
    scheduled_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    output_tokens: int = 0
    finish_reason: str | None = None
    report: KvReport | None = None
    """Set before the generation's last output is handed on; None when it was aborted."""
    prompt_tokens: Sequence[int] = ()
    """Ids as the engine computed them."""
    answer_tokens: list[int] = field(default_factory=list)
    """Ids of the first choice, in order, those included that its text does not show."""


@dataclass(slots=True)
class TurnContext:
    """What travels with one HTTP request from the session layer to the engine and back.

    The session layer sets ``session`` and ``cache_salt``; the engine gives both to every
    generation made while the request is served (they override whatever the client sent) and
    appends a ``Generation`` for each.
    """

    session: SessionKey
    cache_salt: str
    on_begin: Callable[[], None] | None = None
    """Called once, by the engine, when it has accepted the first generation and before any of its
    output. A request that is refused never gets here. Must not block and must not raise."""
    on_prompt: Callable[[Sequence[int]], Sequence[int]] | None = None
    """Called by the engine with a generation's rendered prompt; what it returns is computed
    instead, unless it does not fit the model: ``Generation.prompt_tokens`` says what was. Not
    called for prompts with images. Must be quick and must not raise."""
    generations: list[Generation] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether every generation begun so far has its report."""
        return bool(self.generations) and all(g.report is not None for g in self.generations)


current_turn: ContextVar[TurnContext | None] = ContextVar("current_turn", default=None)
"""The turn being served by the running task. A context variable crosses the server's own layers
and tasks unharmed, so nothing of vLLM's serving code has to carry it."""


class EnginePort(Protocol):
    """One engine. Methods are called on the event loop's thread."""

    async def start(self) -> FastAPI:
        """Start the engine and return the application with its OpenAI routes, not yet serving.

        Raises EngineError when the engine does not come up.
        """
        ...

    @property
    def info(self) -> EngineInfo:
        """Facts of the running engine; only after ``start``."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names that a request's ``model`` may have; only after ``start``."""
        ...

    @property
    def end_of_turn(self) -> frozenset[int]:
        """Ids that end a message in the chat template; only after ``start``."""
        ...

    async def status(self, session: SessionKey) -> SessionKv: ...

    async def park(self, session: SessionKey) -> SessionKv:
        """Returns when the SSD copy is complete and the upper copies are freed."""
        ...

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched: ...

    async def drop(self, session: SessionKey) -> Dropped: ...

    async def held_sessions(self) -> list[SessionKv]:
        """Every session of which some tier holds a chunk."""
        ...

    async def pin(self, session: SessionKey, tier: Tier, ttl_s: int) -> Pinned:
        """See ``hints.Pin``."""
        ...

    async def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        """See ``hints.Unpin``."""
        ...

    async def take_broken(self) -> list[BrokenPin]:
        """Pins that pressure broke since the last call."""
        ...

    async def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> SessionKv:
        """See ``hints.Fork``."""
        ...

    async def truncate(self, session: SessionKey, tokens: int) -> SessionKv:
        """See ``hints.Truncate``."""
        ...

    async def usage(self) -> list[TenantBytes]:
        """What each tenant holds."""
        ...

    async def hint(self, hint: Hint) -> Pulse:
        """Tell what the engine may decide by. It answers at once: what follows from it, it does
        later."""
        ...

    async def foresight(self) -> Foresight:
        """How well it predicts when sessions are back, and what that was good for."""
        ...

    async def stop(self, drain_s: float) -> None:
        """Flush the store and end the engine and its processes; wait at most ``drain_s``."""
        ...
