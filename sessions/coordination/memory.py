"""The coordinator of a process that is alone. See ``port.py``."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sessions.coordination.port import Charge, Lease, Rate

_MAX_BUCKETS: Final = 100_000
"""Beyond that the ones that are full again are forgotten, which changes nothing."""


@dataclass(slots=True)
class _Held:
    lease: Lease
    until: float


@dataclass(slots=True)
class _Bucket:
    units: float
    at: float


class MemoryCoordinator:
    """A ``Coordinator`` in memory; ``clock`` is seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, _Held] = {}
        self._tokens: dict[str, int] = {}
        self._buckets: dict[str, _Bucket] = {}

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        now = self._clock()
        held = self._leases.get(name)
        if held is not None and held.until > now:
            if held.lease.holder != holder:
                return None
            if held.lease.token >= floor:
                held.until = now + ttl_s
                return held.lease
        token = max(self._tokens.get(name, 0), floor) + 1
        self._tokens[name] = token
        lease = Lease(name, holder, token)
        self._leases[name] = _Held(lease, now + ttl_s)
        return lease

    async def release(self, lease: Lease) -> None:
        held = self._leases.get(lease.name)
        if held is not None and held.lease == lease:
            del self._leases[lease.name]

    async def charge(self, bucket: str, units: int, rate: Rate) -> Charge:
        found = self._filled(bucket, rate)
        missing = min(units, rate.per_minute) - found.units
        if missing > 0:
            wait_s = missing * 60 / rate.per_minute
            return Charge(allowed=False, retry_after_s=wait_s, remaining=_whole(found.units))
        found.units -= units
        return Charge(allowed=True, retry_after_s=0.0, remaining=_whole(found.units))

    async def refund(self, bucket: str, units: int, rate: Rate) -> None:
        found = self._filled(bucket, rate)
        found.units = min(found.units + units, rate.per_minute)

    async def close(self) -> None:
        return

    def _filled(self, name: str, rate: Rate) -> _Bucket:
        now = self._clock()
        found = self._buckets.get(name)
        if found is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._buckets = {n: b for n, b in self._buckets.items() if now - b.at < 60}
            found = self._buckets[name] = _Bucket(rate.per_minute, now)
        flown_in = (now - found.at) * rate.per_minute / 60
        found.units = min(found.units + flown_in, rate.per_minute)
        found.at = now
        return found


def _whole(units: float) -> int:
    return max(0, math.floor(units))
