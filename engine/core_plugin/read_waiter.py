"""Who waits for chunks on their way up."""

from collections.abc import Iterable
from typing import Protocol

from cache_tiers.types import ChunkKey, MissReason


class ReadWaiter(Protocol):
    """Somebody for whom chunks are brought to DRAM. Chunks it wants arrive pinned."""

    def wants(self, key: ChunkKey) -> bool: ...
    def on_reading(self, keys: Iterable[ChunkKey]) -> None: ...
    def on_ready(self, keys: Iterable[ChunkKey], now: float) -> None: ...
    def on_failed(self, key: ChunkKey, reason: MissReason) -> None: ...
