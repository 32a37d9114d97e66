"""The lease that one request asks for: claimed while its answer is generated, told in its receipt.

Nothing on the way of a token waits for it, and a lease that is not granted costs the request
nothing.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

from app.leases import Wish
from app.metrics import STATE_FAILURES
from engine.port import EngineError
from sessions.leases.service import LeaseService
from sessions.types import NoSuchTier, PinRefused, SessionError

WAIT_S: Final = 0.25
"""How long the end of an answer waits to know whether the lease is granted."""


class LeaseClaim:
    """Made once, at the turn's begin."""

    def __init__(self, leases: LeaseService, wish: Wish) -> None:
        self._leases = leases
        self._wish = wish
        self._made = asyncio.Event()
        self._granted: bool | None = None

    async def make(self, tenant: str, session_id: str) -> None:
        """Claim the lease for a session that the database has, or renew it. Raises nothing."""
        wish = self._wish
        self._granted = False
        try:
            await self._leases.pin(tenant, session_id, wish.tier, wish.ttl_s, wish.source)
            self._granted = True
        except (PinRefused, NoSuchTier):
            pass
        except (SessionError, EngineError):
            STATE_FAILURES.labels("lease").inc()
        finally:
            self._made.set()

    async def settled(self) -> None:
        """Wait until it is made, at most ``WAIT_S``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._made.wait(), WAIT_S)

    def told(self) -> dict[str, Any]:
        """Of a receipt; ``granted`` is None where that was not known in time."""
        wish = self._wish
        granted = self._granted if self._made.is_set() else None
        return {"tier": wish.tier, "ttl_s": wish.ttl_s, "granted": granted}
