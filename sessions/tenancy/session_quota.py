"""How many sessions a tenant may have: kept without counting at every request.

Nothing is refused but on a fresh count. Between two counts every request is taken for one of a new
session, so that a tenant far from its limit costs nothing, and one at its limit two small queries.
Processes on one database do not see what the others let in meanwhile: for a moment there may be as
many sessions too many as requests run at once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sessions.database import Database
from sessions.repository import SessionRepository
from sessions.tenancy.directory import TenantDirectory
from sessions.tenancy.repository import TenancyRepository
from sessions.tenancy.types import QuotaExceeded
from sessions.types import StateUnavailable

WAIT_S: Final = 0.25
"""How long a request waits for the database to count. After that it is let in."""
_FRESH_S: Final = 10.0


@dataclass(slots=True)
class _Counted:
    sessions: int
    until: float


class SessionQuota:
    """Limits of all tenants. Used on the event loop."""

    def __init__(
        self,
        database: Database,
        directory: TenantDirectory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._counted: dict[str, _Counted] = {}
        self._looking: set[asyncio.Task[bool]] = set()

    async def admits(self, tenant: str, session_id: str | None) -> bool:
        """Whether the tenant has this session, or may have a new one; None is a new one. A database
        that fails or is slow lets everybody in."""
        limit = self._directory.quotas(tenant).sessions
        if not limit:
            return True
        counted = self._counted.get(tenant)
        if counted is not None and counted.sessions < limit and self._clock() < counted.until:
            counted.sessions += 1
            return True
        looking = asyncio.create_task(self._look(tenant, session_id, limit))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)
        done, _ = await asyncio.wait((looking,), timeout=WAIT_S)
        return looking.result() if done else True

    async def check(self, tenant: str) -> None:
        """Raises QuotaExceeded unless the tenant may have a new session."""
        if not await self.admits(tenant, None):
            raise QuotaExceeded("No room for another session.")

    async def count(self, tenant: str, most: int) -> int:
        """The tenant's sessions now; of more than ``most``, as many. Raises StateUnavailable."""
        async with self._database.begin() as connection:
            return await TenancyRepository(connection).count_sessions(tenant, most)

    async def _look(self, tenant: str, session_id: str | None, limit: int) -> bool:
        try:
            async with self._database.begin() as connection:
                sessions = await TenancyRepository(connection).count_sessions(tenant, limit)
                known = session_id is not None and await SessionRepository(connection).find(
                    tenant, session_id
                )
        except StateUnavailable:
            return True
        if sessions < limit:
            self._counted[tenant] = _Counted(sessions + (not known), self._clock() + _FRESH_S)
            return True
        self._counted.pop(tenant, None)
        return bool(known)
