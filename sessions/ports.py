"""What the session layer needs of the world; ``app/main.py`` wires real things to it."""

from datetime import datetime
from typing import Protocol

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import SessionKey, Tier


class KvControl(Protocol):
    """Control of a session's KV. ``engine.port.EnginePort`` satisfies it."""

    async def status(self, session: SessionKey) -> SessionKv: ...

    async def park(self, session: SessionKey) -> SessionKv: ...

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched: ...

    async def drop(self, session: SessionKey) -> Dropped: ...

    async def held_sessions(self) -> list[SessionKv]: ...


class Clock(Protocol):
    """Now, in UTC, timezone-aware."""

    def __call__(self) -> datetime: ...
