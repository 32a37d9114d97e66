"""What each chunk is worth to each tier, told to the tiers whenever that changes. Scheduler thread
only.

A chunk is pinned while a session has a lease on it there, superseded when every session that held
it has left it behind, else ordinary. In DRAM and on SSD that is a place in the order of eviction.
On the device a pinned block is held as by a request; the oldest pins are broken when a request
finds too few blocks, so none waits for a pin.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from cache_tiers.hints import BrokenPin
from cache_tiers.lineage import Lineage
from cache_tiers.pins import SHARES, PinBook
from cache_tiers.types import ChunkKey, Standing, Tier
from engine.core_plugin.device_blocks import DeviceBlocks
from engine.core_plugin.manager import TierManager

PRESSURE = "others needed the room"


class Standings:
    """See the module's docstring."""

    def __init__(self, manager: TierManager, lineage: Lineage) -> None:
        self._manager = manager
        self._lineage = lineage
        self._device: DeviceBlocks | None = None
        self._held: dict[ChunkKey, list[int]] = {}
        """Device blocks that pins hold."""
        budgets = {Tier.DRAM: int(manager.capacity * SHARES[Tier.DRAM])}
        if manager.ssd is not None:
            limit = manager.ssd.store.stats().bytes_limit * SHARES[Tier.SSD]
            budgets[Tier.SSD] = int(limit / manager.chunk_bytes)
        self.pins = PinBook(budgets, self._on_pins_changed)
        manager.dram.order.standing_of = partial(self.of, tier=Tier.DRAM)
        manager.dram.break_oldest_pin = lambda: self.pins.break_oldest(Tier.DRAM, PRESSURE)
        manager.standing_on_ssd = partial(self.of, tier=Tier.SSD)
        self.update(lineage.all_superseded())

    def bind(self, device: DeviceBlocks, blocks_per_chunk: int) -> None:
        """The engine has handed over its device blocks."""
        self._device = device
        share = device.total * SHARES[Tier.DEVICE]
        self.pins.budgets[Tier.DEVICE] = int(share / blocks_per_chunk)

    def of(self, key: ChunkKey, tier: Tier) -> Standing:
        """What ``key`` is worth to ``tier``."""
        return Standing.PINNED if self.pins.is_pinned(key, tier) else self._unpinned(key)

    def update(self, keys: Sequence[ChunkKey]) -> None:
        """What these are worth may have changed."""
        unpinned = {key: self._unpinned(key) for key in keys}
        for tier in (Tier.DRAM, Tier.SSD):
            pinned = self.pins.is_pinned
            self._tell(tier, {k: _PINNED if pinned(k, tier) else s for k, s in unpinned.items()})

    def hold(self, chunks: Iterable[tuple[ChunkKey, list[int]]]) -> None:
        """Hold the device blocks of chunks that are there, where pinned."""
        if self._device is None:
            return
        for key, blocks in chunks:
            if self.pins.is_pinned(key, Tier.DEVICE) and key not in self._held:
                self._device.hold(blocks)
                self._held[key] = blocks

    def make_room_on_device(self, blocks: int) -> None:
        """Break the oldest pins until so many blocks can be allocated, or none is left."""
        while (
            self._held
            and self._device is not None
            and self._device.idle < blocks
            and self.pins.break_oldest(Tier.DEVICE, PRESSURE)
        ):
            pass

    def break_device_pin(self) -> bool:
        """Break the oldest that holds blocks, if there is one."""
        held = len(self._held)
        while held and len(self._held) == held:
            if not self.pins.break_oldest(Tier.DEVICE, PRESSURE):
                break
        return len(self._held) < held

    @property
    def holds_device(self) -> bool:
        """Whether pins hold any device block."""
        return bool(self._held)

    def poll(self, now: float) -> None:
        """End leases that are over; take note of those that the SSD could not keep."""
        self.pins.expire(now)
        if self._manager.ssd is not None:
            self.pins.lose(self._manager.ssd.take_evicted_pins(), Tier.SSD, PRESSURE)

    def take_broken(self) -> list[BrokenPin]:
        """Pins that were broken since the last call."""
        size = self._manager.chunk_bytes
        return [
            BrokenPin(pin.session, pin.tier, pin.chunks * size, pin.reason)
            for pin in self.pins.take_broken()
        ]

    def _on_pins_changed(self, tier: Tier, keys: Sequence[ChunkKey]) -> None:
        if tier is Tier.DEVICE:
            gone = [key for key in keys if not self.pins.is_pinned(key, tier)]
            # A prefix's end is evicted first: without its beginning it would be useless.
            released = [block for key in reversed(gone) for block in self._held.pop(key, ())]
            if self._device is not None and released:
                self._device.release(released)
        else:
            self._tell(tier, {key: self.of(key, tier) for key in keys})

    def _unpinned(self, key: ChunkKey) -> Standing:
        superseded = key not in self._manager.public and self._lineage.is_superseded(key)
        return Standing.SUPERSEDED if superseded else Standing.ORDINARY

    def _tell(self, tier: Tier, standings: Mapping[ChunkKey, Standing]) -> None:
        """Tell DRAM or SSD."""
        ssd = self._manager.ssd
        for standing in Standing:
            keys = [key for key, each in standings.items() if each is standing]
            if keys and tier is Tier.DRAM:
                self._manager.dram.rank(keys, standing)
            elif keys and ssd is not None:
                ssd.rank(keys, standing)


_PINNED = Standing.PINNED
