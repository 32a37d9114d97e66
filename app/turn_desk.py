"""What live turns share: the services they are recorded with, and the tasks that record them."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from app.gaps import Gaps
from cache_tiers.prefill_cost import PrefillCost
from engine.port import EngineError, EnginePort
from sessions.history.place import Place
from sessions.history.service import Histories
from sessions.identity import session_key
from sessions.leases.service import LeaseService
from sessions.service import SessionService

logger = logging.getLogger(__name__)

FORK_WAIT_S: Final = 0.25
"""How long a fork's first turn waits until the engine knows what it shares."""


@dataclass(slots=True)
class TurnDesk:
    """Lives on the event loop."""

    sessions: SessionService
    histories: Histories
    engine: EnginePort
    leases: LeaseService
    gaps: Gaps
    cost: PrefillCost = field(default_factory=PrefillCost)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def fingerprint(self) -> str:
        """Of the running engine."""
        return self.engine.info.fingerprint

    async def fork(self, tenant: str, place: Place) -> None:
        """Have a fork share its parent's KV. What cannot be shared is computed."""
        if place.lineage is None or not place.shared_tokens:
            return
        parent = session_key(tenant, place.lineage.parent_id)
        child = session_key(tenant, place.session_id)
        try:
            forking = self.engine.fork(parent, child, place.shared_tokens)
            await asyncio.wait_for(forking, FORK_WAIT_S)
        except (EngineError, TimeoutError) as error:
            logger.warning("A fork shares nothing with its parent: %s", error or "no time")
            return
        self.gaps.arriving(child)

    async def drop(self, tenant: str, session_id: str) -> None:
        """Have the engine forget a session that the database does not know."""
        try:
            await self.engine.drop(session_key(tenant, session_id))
        except EngineError as error:
            logger.warning("The KV of a fork without a turn stays until it is evicted: %s", error)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every turn that is over is recorded, at most ``timeout_s``."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` apart from the request that asked for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
