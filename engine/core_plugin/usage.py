"""What each tenant holds, counted a few chunks at a time. Scheduler thread only.

One lookup in each tier takes some microseconds, so 100,000 chunks take 0.3 s in all: too long for
one step. Between two slices chunks move, so the sums are those of no single moment.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from cache_tiers.hints import Reply, TenantBytes, Usage
from cache_tiers.lineage import Lineage
from cache_tiers.types import ChunkKey, SessionKey, Tier, tenant_of
from engine.core_plugin.manager import TierManager
from engine.core_plugin.standings import Standings

CHUNKS_A_STEP = 1_000
"""Some 5 ms of a step."""


class Holdings(Protocol):
    """What a count needs to know of sessions."""

    lineage: Lineage
    standings: Standings

    def everything(self, session: SessionKey) -> Iterator[tuple[ChunkKey, bool]]:
        """Every chunk that the session holds, and whether it is on the device."""
        ...


@dataclass(slots=True)
class _Sum:
    seen: set[ChunkKey] = field(default_factory=set)
    held: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    pinned: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))


class UsageOperation:
    """An operation (see ``operations.py``). Chunks of public prefixes are nobody's."""

    def __init__(self, holdings: Holdings, manager: TierManager) -> None:
        self._holdings = holdings
        self._manager = manager
        self._sums: dict[str, _Sum] = {}
        self._left = self._count()

    def poll(self, now: float) -> Reply | None:
        """See Operation."""
        del now
        counted = sum(1 for _ in islice(self._left, CHUNKS_A_STEP))
        if counted == CHUNKS_A_STEP:
            return None
        size = self._manager.chunk_bytes
        return Usage(
            [
                TenantBytes(
                    tenant,
                    {tier: n * size for tier, n in each.held.items()},
                    {tier: n * size for tier, n in each.pinned.items()},
                )
                for tenant, each in self._sums.items()
                if any(each.held.values())
            ]
        )

    def _count(self) -> Iterator[None]:
        """Counts as it is drawn, one step a chunk or a session."""
        for session in self._holdings.lineage.sessions():
            each = self._sums.setdefault(tenant_of(session), _Sum())
            yield
            for key, on_device in self._holdings.everything(session):
                yield
                if key in each.seen or key in self._manager.public:
                    continue
                each.seen.add(key)
                for tier in self._where(key, on_device):
                    each.held[tier] += 1
                    each.pinned[tier] += self._holdings.standings.pins.is_pinned(key, tier)

    def _where(self, key: ChunkKey, on_device: bool) -> Iterator[Tier]:
        if on_device:
            yield Tier.DEVICE
        if self._manager.dram.has(key):
            yield Tier.DRAM
        if self._manager.is_on_ssd(key):
            yield Tier.SSD
