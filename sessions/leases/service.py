"""Leases: a session's budgeted, expiring claim on a tier.

The engine holds the leases of its own sessions and ends them by its own clock; the database has
them too, so that they are known after a restart and to other processes. A tenant may claim a share
of each tier. A lease that is refused, broken or over leaves the session's KV to the common order of
eviction, and nothing else changes.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from cache_tiers.hints import BrokenPin, TenantBytes
from cache_tiers.types import Tier
from sessions.identity import parse_session_key, session_key
from sessions.leases.repository import Pin, PinRepository
from sessions.lookup import existing
from sessions.ports import Clock, KvControl
from sessions.types import NoSuchTier, PinRefused, SessionNotFound
from sessions.uninterrupted import uninterrupted
from sessions.units import Units
from sessions.upkeep.events import EventKind, EventRepository

API: Final = "api"
"""The source of a pin that was asked for as such."""
_PAGE: Final = 100
_UNTOLD: Final = 10_000
"""Broken pins that are remembered while the database fails."""


class LeaseService:
    """Pins of all tenants' sessions in the engine of this process. Used on one event loop.

    Every method may raise StateUnavailable and what the engine raises; one that names a session,
    SessionNotFound.
    """

    def __init__(
        self,
        units: Units,
        kv: KvControl,
        clock: Clock,
        *,
        budgets: Mapping[Tier, int],
        instance: str = "",
    ) -> None:
        """``budgets`` is what one tenant may pin, in bytes by tier; a tier without one, or with 0,
        is not there."""
        self._units = units
        self._kv = kv
        self._clock = clock
        self._budgets = budgets
        self._instance = instance
        self._untold: list[BrokenPin] = []

    async def pin(
        self, tenant: str, session_id: str, tier: Tier, ttl_s: int, source: str = API
    ) -> Pin:
        """Claim the tier for the session's chunks, those of its next turns included, for ``ttl_s``
        from now. An earlier pin of the tier is replaced; only a request's field never shortens it.

        Raises PinRefused, of which an event is kept, and NoSuchTier.
        """
        if not self._budgets.get(tier):
            raise NoSuchTier(f"This server has no tier {tier}.")
        async with self._units.begin() as repo:
            await existing(repo, tenant, session_id)
            held = await PinRepository(repo.connection).of_session(tenant, session_id)
        earlier = next((pin for pin in held if pin.tier is tier), None)
        now = self._clock()
        until = now + timedelta(seconds=ttl_s)
        if earlier is not None and source != API:
            until = max(until, earlier.expires_at)
        claimed = await self._claim(tenant, session_id, tier, earlier, until)
        pin = Pin(tenant, session_id, tier, source, ttl_s, claimed or 0, now, until)
        return await uninterrupted(self._record(pin, earlier, refused=claimed is None))

    async def unpin(self, tenant: str, session_id: str, tier: Tier | None = None) -> list[Tier]:
        """End the session's pin of the tier, or all of its pins; which there were."""
        tiers = list(Tier) if tier is None else [tier]
        async with self._units.begin() as repo:
            await existing(repo, tenant, session_id, lock=True)
            ended = await PinRepository(repo.connection).remove(tenant, session_id, tiers)
            events = EventRepository(repo.connection)
            for each in ended:
                kind = EventKind.UNPINNED
                await events.add(tenant, session_id, kind, self._clock(), tier=each)
        await self._kv.unpin(session_key(tenant, session_id), tier)
        return ended

    async def pins(self, tenant: str, session_id: str) -> list[Pin]:
        """The session's pins that go on."""
        async with self._units.begin() as repo:
            held = await PinRepository(repo.connection).of_session(tenant, session_id)
        return [pin for pin in held if pin.expires_at > self._clock()]

    # --- upkeep ----------------------------------------------------------------------------------

    async def restore(self) -> int:
        """Claim again what an engine that was restarted forgot; how many. Call it once, before the
        first turn."""
        restored, after = 0, None
        while True:
            async with self._units.begin() as repo:
                pins = PinRepository(repo.connection)
                page = await pins.of_instance(self._instance, self._clock(), _PAGE, after)
            for pin in page:
                after = pin.tenant, pin.session_id, pin.tier
                left_s = math.ceil((pin.expires_at - self._clock()).total_seconds())
                key = session_key(pin.tenant, pin.session_id)
                if left_s > 0 and (await self._kv.pin(key, pin.tier, left_s)).granted:
                    restored += 1
                else:
                    self._untold.append(BrokenPin(key, pin.tier, pin.bytes, "restart"))
            if len(page) < _PAGE:
                return restored

    async def tell_broken(self) -> int:
        """Take note of the pins that the engine broke since the last call; how many."""
        self._untold = [*self._untold, *await self._kv.take_broken()][-_UNTOLD:]
        told = 0
        while self._untold:
            some = self._untold[:_PAGE]
            async with self._units.begin() as repo:
                for broken in some:
                    told += await self._tell_broken(repo.connection, broken)
            del self._untold[: len(some)]
        return told

    async def keep_shares(self) -> int:
        """End the youngest pin of each tenant that grew beyond its share of a tier; how many."""
        async with self._units.begin() as repo:
            pins = PinRepository(repo.connection)
            if not await pins.of_instance(self._instance, self._clock(), 1, None):
                # Counting wakes the engine, whose workers then poll for a second.
                return 0
        over = [
            (usage.tenant, tier)
            for usage in await self._kv.usage()
            for tier, size in usage.pinned_by_tier.items()
            if size > self._budgets.get(tier, 0)
        ]
        ended = 0
        for tenant, tier in over:
            async with self._units.begin() as repo:
                pins = PinRepository(repo.connection)
                youngest = await pins.youngest(tenant, tier, self._instance)
                if youngest is None:
                    continue
                key = session_key(tenant, youngest.session_id)
                broken = BrokenPin(key, tier, youngest.bytes, "share")
                ended += await self._tell_broken(repo.connection, broken)
            await self._kv.unpin(key, tier)
        return ended

    # --- parts -----------------------------------------------------------------------------------

    async def _claim(
        self, tenant: str, session_id: str, tier: Tier, earlier: Pin | None, until: datetime
    ) -> int | None:
        """Bytes that the engine pinned; None when the tenant's share or the tier has no room."""
        key = session_key(tenant, session_id)
        usage, kv = await asyncio.gather(self._kv.usage(), self._kv.status(key))
        size = max(kv.bytes_by_tier.values(), default=0)
        others = _pinned(usage, tenant, tier) - (earlier.bytes if earlier else 0)
        if max(0, others) + size > self._budgets[tier]:
            return None
        left_s = max(1, math.ceil((until - self._clock()).total_seconds()))
        pinned = await self._kv.pin(key, tier, left_s)
        return pinned.bytes if pinned.granted else None

    async def _record(self, pin: Pin, earlier: Pin | None, *, refused: bool) -> Pin:
        tenant, session_id = pin.tenant, pin.session_id
        about: dict[str, Any] = {"tier": pin.tier, "ttl_s": pin.ttl_s, "source": pin.source}
        try:
            async with self._units.begin() as repo:
                await existing(repo, tenant, session_id, lock=True)
                pins, events = PinRepository(repo.connection), EventRepository(repo.connection)
                if refused:
                    kind = EventKind.PIN_REFUSED
                    await events.add(tenant, session_id, kind, self._clock(), **about)
                    ends = await pins.earliest_end(tenant, pin.tier)
                else:
                    await pins.put(pin)
                    # A renewal by use is the same lease going on.
                    if earlier is None or pin.source == API:
                        kind = EventKind.PINNED
                        await events.add(tenant, session_id, kind, self._clock(), **about)
                    return pin if earlier is None else replace(pin, created_at=earlier.created_at)
        except SessionNotFound:
            await self._kv.unpin(session_key(tenant, session_id), pin.tier)
            raise
        raise PinRefused(
            f"There is no room for this pin in the tier {pin.tier}.", self._seconds_until(ends)
        )

    async def _tell_broken(self, connection: AsyncConnection, broken: BrokenPin) -> int:
        tenant, session_id = parse_session_key(broken.session)
        # Another process may have ended it, or the session may be gone: there is nothing to tell.
        if not await PinRepository(connection).remove(tenant, session_id, [broken.tier]):
            return 0
        about = {"tier": broken.tier, "bytes": broken.bytes, "reason": broken.reason}
        events, kind = EventRepository(connection), EventKind.PIN_BROKEN
        await events.add(tenant, session_id, kind, self._clock(), **about)
        return 1

    def _seconds_until(self, ends: datetime | None) -> int:
        if ends is None:
            return _NO_END_S
        return max(1, math.ceil((ends - self._clock()).total_seconds()))


_NO_END_S: Final = 60
"""Until another try may help where the tenant has no lease that could end: others have the room."""


async def end_due_pins(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """End pins whose time is over, of all tenants; how many. The engines end theirs by
    themselves."""
    events = EventRepository(connection)
    due = await PinRepository(connection).take_due(now, limit)
    for pin in due:
        about = {"tier": pin.tier, "source": pin.source}
        await events.add(pin.tenant, pin.session_id, EventKind.PIN_EXPIRED, now, **about)
    return len(due)


def _pinned(usage: list[TenantBytes], tenant: str, tier: Tier) -> int:
    return sum(one.pinned_by_tier.get(tier, 0) for one in usage if one.tenant == tenant)
