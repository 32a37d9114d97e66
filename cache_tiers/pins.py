"""Pins: leases on chunks of a tier. Pure bookkeeping, on the thread of its owner.

A pin is a place in the eviction order, not a lock: what is pinned goes last, and where nothing else
is left to go, the oldest pin is broken and remembered as such. So a pin can make no request wait.
It follows its session: each turn's chunks are pinned too, from the front as far as the budget goes.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cache_tiers.types import ChunkKey, SessionKey, Tier

SHARES: Mapping[Tier, float] = {Tier.DEVICE: 0.25, Tier.DRAM: 0.5, Tier.SSD: 0.5}
"""Of each tier, what pins may claim, all tenants together. The rest is for those who did not ask:
running requests need most of the device, and DRAM is also the way between device and SSD."""
MOST_PINS = 10_000
_MOST_BROKEN = 10_000
"""Remembered until somebody asks; beyond it the oldest are forgotten."""

OnChange = Callable[[Tier, Sequence[ChunkKey]], None]
"""Told of chunks that are pinned now and were not, or the other way round."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A pin that ended before its time."""

    session: SessionKey
    tier: Tier
    chunks: int
    """That it claimed."""
    reason: str


@dataclass(slots=True)
class _Pin:
    until: float
    keys: tuple[ChunkKey, ...]


class PinBook:
    """Who has a lease on what. Times are seconds of the caller's clock, budgets are in chunks; a
    chunk that several pins claim counts once."""

    def __init__(self, budgets: Mapping[Tier, int], on_change: OnChange | None = None) -> None:
        self.budgets = dict(budgets)
        self._on_change = on_change
        self._pins: dict[tuple[SessionKey, Tier], _Pin] = {}
        """The oldest first."""
        self._claims: dict[Tier, Counter[ChunkKey]] = {tier: Counter() for tier in Tier}
        self._ends: list[tuple[float, SessionKey, Tier]] = []
        """A heap; entries of pins that are gone or were renewed are skipped."""
        self._broken: deque[Broken] = deque(maxlen=_MOST_BROKEN)

    def is_pinned(self, key: ChunkKey, tier: Tier) -> bool:
        """Whether anybody has a lease on ``key`` in ``tier``."""
        return key in self._claims[tier]

    def claimed(self, tier: Tier) -> int:
        """Chunks that pins claim in ``tier``."""
        return len(self._claims[tier])

    def tiers(self, session: SessionKey) -> list[Tier]:
        """Where the session has pins."""
        return [tier for tier in Tier if (session, tier) in self._pins]

    def pin(self, session: SessionKey, tier: Tier, chain: Sequence[ChunkKey], until: float) -> bool:
        """Claim the session's ``chain``; replaces its earlier pin of the tier, and is the youngest.
        False, and nothing changed, where the budget has no room for all of it."""
        keys = tuple(dict.fromkeys(chain))
        earlier = self._pins.get((session, tier))
        if earlier is None and len(self._pins) >= MOST_PINS:
            return False
        claims = self._claims[tier]
        alone = sum(claims[key] == 1 for key in earlier.keys) if earlier else 0
        own = set(earlier.keys) if earlier else set()
        new = sum(key not in claims or (key in own and claims[key] == 1) for key in keys)
        if len(claims) - alone + new > self.budgets.get(tier, 0):
            return False
        self._pins.pop((session, tier), None)
        self._pins[session, tier] = _Pin(until, keys)
        self._push(until, session, tier)
        self._change(tier, gone=earlier.keys if earlier else (), come=keys)
        return True

    def unpin(self, session: SessionKey, tier: Tier | None = None) -> None:
        """End the session's pin of ``tier``, or all of its pins."""
        for each in self.tiers(session) if tier is None else [tier]:
            self._end(session, each)

    def follow(self, session: SessionKey, chain: Sequence[ChunkKey]) -> None:
        """The session holds ``chain`` now: so do its pins, from the front as far as room goes."""
        for tier in self.tiers(session):
            pin = self._pins[session, tier]
            gone, claims = pin.keys, self._claims[tier]
            same = next(
                (i for i, (a, b) in enumerate(zip(gone, chain, strict=False)) if a != b),
                min(len(gone), len(chain)),
            )
            self._change(tier, gone=gone[same:], come=())
            room = self.budgets.get(tier, 0) - len(claims)
            come = []
            for key in dict.fromkeys(chain[same:]):
                if key not in claims:
                    if room <= 0:
                        break
                    room -= 1
                come.append(key)
            pin.keys = (*gone[:same], *come)
            self._change(tier, gone=(), come=come)

    def expire(self, now: float) -> None:
        """End what is over."""
        while self._ends and self._ends[0][0] <= now:
            until, session, tier = heapq.heappop(self._ends)
            pin = self._pins.get((session, tier))
            if pin is not None and pin.until == until:
                self._end(session, tier)

    def break_oldest(self, tier: Tier, reason: str) -> bool:
        """Others need the room: end the tier's oldest pin. False when there is none."""
        oldest = next((session for session, each in self._pins if each is tier), None)
        if oldest is None:
            return False
        self._break(oldest, tier, reason)
        return True

    def lose(self, keys: Iterable[ChunkKey], tier: Tier, reason: str) -> None:
        """The tier had to give these chunks away: every pin that claims one is broken."""
        lost = self._claims[tier].keys() & set(keys)
        if not lost:
            return
        holders = [
            session
            for (session, each), pin in self._pins.items()
            if each is tier and not lost.isdisjoint(pin.keys)
        ]
        for session in holders:
            self._break(session, tier, reason)

    def take_broken(self) -> list[Broken]:
        """Pins that were broken since the last call, in order."""
        taken = list(self._broken)
        self._broken.clear()
        return taken

    def _break(self, session: SessionKey, tier: Tier, reason: str) -> None:
        pin = self._pins[session, tier]
        self._broken.append(Broken(session, tier, len(pin.keys), reason))
        self._end(session, tier)

    def _end(self, session: SessionKey, tier: Tier) -> None:
        pin = self._pins.pop((session, tier), None)
        if pin is not None:
            self._change(tier, gone=pin.keys, come=())

    def _push(self, until: float, session: SessionKey, tier: Tier) -> None:
        heapq.heappush(self._ends, (until, session, tier))
        if len(self._ends) > 64 + 2 * len(self._pins):
            self._ends = [(pin.until, *name) for name, pin in self._pins.items()]
            heapq.heapify(self._ends)

    def _change(self, tier: Tier, *, gone: Sequence[ChunkKey], come: Sequence[ChunkKey]) -> None:
        """Count claims, and tell of the chunks for which that made a difference."""
        claims = self._claims[tier]
        before: dict[ChunkKey, bool] = {}
        for key in come:
            before.setdefault(key, key in claims)
            claims[key] += 1
        for key in gone:
            before.setdefault(key, True)
            claims[key] -= 1
            if not claims[key]:
                del claims[key]
        changed = [key for key, pinned in before.items() if pinned != (key in claims)]
        if changed and self._on_change is not None:
            self._on_change(tier, changed)
