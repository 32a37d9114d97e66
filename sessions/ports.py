"""What the session layer needs of the world; ``app/main.py`` wires real things to it."""

from datetime import datetime
from typing import Protocol

from cache_tiers.hints import BrokenPin, Dropped, Pinned, Prefetched, SessionKv, TenantBytes
from cache_tiers.types import SessionKey, Tier


class KvControl(Protocol):
    """Control of a session's KV. ``engine.port.EnginePort`` satisfies it."""

    async def status(self, session: SessionKey) -> SessionKv: ...

    async def park(self, session: SessionKey) -> SessionKv: ...

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched: ...

    async def drop(self, session: SessionKey) -> Dropped: ...

    async def held_sessions(self) -> list[SessionKv]: ...

    async def pin(self, session: SessionKey, tier: Tier, ttl_s: int) -> Pinned: ...

    async def unpin(self, session: SessionKey, tier: Tier | None) -> None: ...

    async def take_broken(self) -> list[BrokenPin]: ...

    async def fork(
        self, parent: SessionKey, child: SessionKey, tokens: int | None
    ) -> SessionKv: ...

    async def truncate(self, session: SessionKey, tokens: int) -> SessionKv: ...

    async def usage(self) -> list[TenantBytes]: ...


class Clock(Protocol):
    """Now, in UTC, timezone-aware."""

    def __call__(self) -> datetime: ...
