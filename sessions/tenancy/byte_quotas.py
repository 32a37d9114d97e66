"""Bytes of KV that a tenant may hold by tier: brought back below the limit at every upkeep.

A quota is no wall. Between two rounds a tenant may go over it, and tiers evict by what was used
last, whosever it is. What is kept is that a tenant does not stay over it: its longest idle sessions
are parked, which frees device and DRAM, or lose their KV, which frees SSD.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cache_tiers.hints import Dropped, SessionKv, TenantBytes
from cache_tiers.types import Tier
from sessions.ports import KvControl
from sessions.tenancy.quotas import Quotas
from sessions.types import Session, SessionBusy, SessionNotFound

MAX_A_ROUND: Final = 32
"""Sessions that one round touches; the next one goes on."""


class Demoter(Protocol):
    """What can be done to sessions, each with an event; ``SessionService`` satisfies it."""

    async def find_all(self, names: Sequence[tuple[str, str]]) -> Sequence[Session]: ...

    async def park(self, tenant: str, session_id: str, by: str) -> SessionKv: ...

    async def drop_kv(self, tenant: str, session_id: str, reason: str) -> Dropped: ...


@dataclass(frozen=True, slots=True)
class Excess:
    """How much a tenant holds beyond a quota."""

    tenant: str
    tier: Tier
    bytes: int


def excesses(usage: Sequence[TenantBytes], quotas: Callable[[str], Quotas]) -> list[Excess]:
    """Quotas that are exceeded, upper tiers first: what is parked goes to SSD. Pure."""
    found = []
    for tier in (Tier.DEVICE, Tier.DRAM, Tier.SSD):
        for held in usage:
            limit = quotas(held.tenant).bytes_in(tier)
            over = held.by_tier.get(tier, 0) - (limit or 0)
            if limit is not None and over > 0:
                found.append(Excess(held.tenant, tier, over))
    return found


async def keep_byte_quotas(kv: KvControl, demoter: Demoter, quotas: Callable[[str], Quotas]) -> int:
    """One round for the engine of this process; how many sessions were parked or dropped. Raises
    what the engine and the database raise."""
    over = excesses(await kv.usage(), quotas)
    if not over:
        return 0
    held = await kv.held_sessions()
    left = MAX_A_ROUND
    for excess in over:
        left -= await _relieve(excess, held, demoter, left)
    return MAX_A_ROUND - left


async def _relieve(excess: Excess, held: Sequence[SessionKv], demoter: Demoter, most: int) -> int:
    bytes_of: dict[tuple[str, str], int] = {}
    for one in held:
        # Names that no session can have are among them: then nothing is found.
        tenant, _, session_id = one.session.partition("/")
        if tenant == excess.tenant and (size := one.bytes_by_tier.get(excess.tier, 0)):
            bytes_of[tenant, session_id] = size
    sessions = await demoter.find_all(list(bytes_of))
    done, freed = 0, 0
    for session in sorted(sessions, key=lambda session: session.last_active_at):
        if done >= most or freed >= excess.bytes:
            break
        if session.running:
            continue
        try:
            await _demote(session, excess.tier, demoter)
        except (SessionBusy, SessionNotFound):
            continue
        done += 1
        freed += bytes_of[session.tenant, session.id]
    return done


async def _demote(session: Session, tier: Tier, demoter: Demoter) -> None:
    if tier is not Tier.SSD:
        parked = await demoter.park(session.tenant, session.id, "quota")
        if parked.ssd_complete:
            return
        # SSD is off, full or failing: there is nowhere to park.
    await demoter.drop_kv(session.tenant, session.id, "quota")
