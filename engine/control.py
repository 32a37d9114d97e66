"""Commands to the plugin inside EngineCore, over one utility call each."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from cache_tiers import hints
from cache_tiers.types import SessionKey, Tier
from engine.port import CommandFailed

Call = Callable[[bytes], Awaitable[bytes]]
"""Carries one encoded command to the engine and returns its encoded reply."""


R = TypeVar("R", bound=hints.Reply)


class Control:
    """Typed commands. Every method raises CommandFailed when the engine answers with a failure,
    and lets what ``call`` raises (the engine is gone) pass."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def info(self) -> hints.EngineInfo:
        """Facts of the running engine."""
        return await self._ask(hints.GetInfo(), hints.EngineInfo)

    async def status(self, session: SessionKey) -> hints.SessionKv:
        """Where a session's chunks are."""
        return await self._ask(hints.GetStatus(session), hints.SessionKv)

    async def park(self, session: SessionKey) -> hints.SessionKv:
        """Complete the SSD copy, free the rest."""
        return await self._ask(hints.Park(session), hints.SessionKv)

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> hints.Prefetched:
        """Bring chunks up."""
        return await self._ask(hints.Prefetch(session, tier, deadline_ms), hints.Prefetched)

    async def drop(self, session: SessionKey) -> hints.Dropped:
        """Forget a session."""
        return await self._ask(hints.Drop(session), hints.Dropped)

    async def held_sessions(self) -> list[hints.SessionKv]:
        """Every session of which a tier holds a chunk."""
        return (await self._ask(hints.ListSessions(), hints.SessionList)).sessions

    async def report(self, request_id: str) -> hints.KvReport | None:
        """The report of a request that has finished, or is about to."""
        return (await self._ask(hints.TakeReport(request_id), hints.Report)).report

    async def flush(self) -> None:
        """Wait until everything on its way to SSD is there."""
        await self._ask(hints.Flush(), hints.Done)

    async def pin(self, session: SessionKey, tier: Tier, ttl_s: int) -> hints.Pinned:
        """Claim a session's chunks in a tier."""
        return await self._ask(hints.Pin(session, tier, ttl_s), hints.Pinned)

    async def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        """End a claim, or all of a session's."""
        await self._ask(hints.Unpin(session, tier), hints.Done)

    async def take_broken(self) -> list[hints.BrokenPin]:
        """Claims that pressure ended since the last call."""
        return (await self._ask(hints.TakeBroken(), hints.BrokenPins)).pins

    async def fork(
        self, parent: SessionKey, child: SessionKey, tokens: int | None
    ) -> hints.SessionKv:
        """Let a session begin with what another holds."""
        return await self._ask(hints.Fork(parent, child, tokens), hints.SessionKv)

    async def truncate(self, session: SessionKey, tokens: int) -> hints.SessionKv:
        """Cut a session to its first tokens."""
        return await self._ask(hints.Truncate(session, tokens), hints.SessionKv)

    async def usage(self) -> list[hints.TenantBytes]:
        """What each tenant holds."""
        return (await self._ask(hints.GetUsage(), hints.Usage)).tenants

    async def hint(self, hint: hints.Hint) -> hints.Pulse:
        """Tell what the engine may decide by."""
        return await self._ask(hint, hints.Pulse)

    async def foresight(self) -> hints.Foresight:
        """How well returns are predicted."""
        return await self._ask(hints.GetForesight(), hints.Foresight)

    async def _ask(self, command: hints.Command, kind: type[R]) -> R:
        reply = hints.decode_reply(await self._call(hints.encode(command)))
        if isinstance(reply, hints.Failure):
            raise CommandFailed(reply.message)
        if not isinstance(reply, kind):
            raise CommandFailed(f"expected {kind.__name__}, got {type(reply).__name__}")
        return reply
