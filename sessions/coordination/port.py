"""What several API processes agree by.

Nothing here is durable, and nothing that must never be wrong rests on it alone: a lease's fencing
token is checked again by the database, in the transaction that it protects (``fences.py``). So a
coordinator that forgets everything, or two processes that each have their own for a while, cost
work done twice or a limit exceeded for a moment, never a wrong state.

Errors::

    CoordinationLost    the coordinator cannot be reached now
"""

from dataclasses import dataclass
from typing import Protocol


class CoordinationLost(Exception):
    """The coordinator cannot be reached now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim on a name, until it ends by itself."""

    name: str
    holder: str
    token: int
    """Fencing token: larger than that of every lease of this name before it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many units a minute, as a bucket that holds as much and fills evenly."""

    per_minute: int


@dataclass(frozen=True, slots=True)
class Charge:
    """How a charge went."""

    allowed: bool
    retry_after_s: float
    """Seconds until the same charge would be allowed; 0.0 when it was."""
    remaining: int = 0
    """Whole units in the bucket afterwards; 0 when it is below zero."""


class Coordinator(Protocol):
    """One per API process; used on its event loop. Every method may raise CoordinationLost, except
    on the in-process one."""

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        """Take the lease, or extend it when ``holder`` has it (then with the token it had, unless
        that is below ``floor``); None when somebody else has it. A new token is larger than
        ``floor``, the newest one that the database knows."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease back early; nothing when it is somebody else's by now."""
        ...

    async def charge(self, bucket: str, units: int, rate: Rate) -> Charge:
        """Take ``units`` from a bucket if it has them, all or nothing. A charge larger than the
        bucket is allowed when the bucket is full, and empties it below zero."""
        ...

    async def refund(self, bucket: str, units: int, rate: Rate) -> None:
        """Give units back, or take more (negative) whatever the bucket holds: what a charge made
        beforehand did not know."""
        ...

    async def close(self) -> None:
        """End connections. Idempotent."""
        ...
