"""A coordinator that is never lost: while the shared one is, the process agrees with itself.

Limits are then each process's own, and several may hold one lease; the database's fences keep
whatever that would spoil. See ``port.py``.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sessions.coordination.memory import MemoryCoordinator
from sessions.coordination.port import Charge, CoordinationLost, Coordinator, Lease, Rate
from sessions.outage import Outage

_log: Final = logging.getLogger(__name__)

RETRY_S: Final = 2.0
"""How often a coordinator that is lost is tried; the request that tries waits for it."""

Result = TypeVar("Result")
_Operation = Callable[[Coordinator], Awaitable[Result]]


class FallbackCoordinator:
    """A ``Coordinator`` that raises nothing."""

    def __init__(
        self,
        shared: Coordinator,
        on_lost: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_lost`` is told of every operation that the shared one failed."""
        self._shared = shared
        self._alone = MemoryCoordinator(monotonic)
        self._on_lost = on_lost
        self._outage = Outage(RETRY_S, monotonic)

    @property
    def alone(self) -> bool:
        """Whether the process agrees only with itself now."""
        return self._outage.lasts

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        return await self._by(lambda c: c.acquire(name, holder, ttl_s, floor))

    async def release(self, lease: Lease) -> None:
        await self._alone.release(lease)
        await self._by(lambda c: c.release(lease))

    async def charge(self, bucket: str, units: int, rate: Rate) -> Charge:
        return await self._by(lambda c: c.charge(bucket, units, rate))

    async def refund(self, bucket: str, units: int, rate: Rate) -> None:
        await self._by(lambda c: c.refund(bucket, units, rate))

    async def close(self) -> None:
        await self._shared.close()

    async def _by(self, operation: _Operation[Result]) -> Result:
        if self._outage.admits():
            try:
                result = await operation(self._shared)
            except CoordinationLost as error:
                self._on_lost()
                if self._outage.failed():
                    _log.warning("the coordinator is lost, this process goes on alone: %s", error)
            else:
                if self._outage.ended():
                    _log.info("the coordinator works again")
                return result
        return await operation(self._alone)
