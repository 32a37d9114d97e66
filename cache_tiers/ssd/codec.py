"""A chunk's bytes as they are stored: compressed if that pays, sealed for its session."""

import struct

from cache_tiers.ssd import exponents
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import Extent, Seal, page_bytes
from cache_tiers.ssd.sealer import Sealer, can_open
from cache_tiers.types import ChunkKey

_ABOUT = struct.Struct("<16sQQH")
_ABOUT_VERSION = b"valet chunk 2\0"


class Codec:
    """Any thread."""

    def __init__(self, config: SsdConfig, sealer: Sealer) -> None:
        self.chunk_bytes = config.chunk_bytes
        self.most_bytes = page_bytes(config.chunk_bytes)
        """What a stored chunk takes at most."""
        self._fingerprint = config.fingerprint.encode()
        self._sealer = sealer

    def pack(self, chunk: memoryview) -> memoryview:
        """What is to be sealed: the chunk, or something shorter that ``exponents`` made of it."""
        packed = exponents.compress(chunk)
        return chunk if packed is None else memoryview(packed)

    def seal(
        self, tenant: bytes, owner: int, key: ChunkKey, packed: memoryview, into: memoryview
    ) -> tuple[memoryview, Seal]:
        """See ``Sealer.seal``."""
        about = self._about(tenant, key, packed.nbytes)
        return self._sealer.seal(owner, packed, into, about)

    def open(self, tenant: bytes, key: ChunkKey, place: Extent, stored: memoryview) -> bool:
        """See ``Sealer.open``; what is left is as ``pack`` gave it."""
        return self._sealer.open(place.seal, stored, self._about(tenant, key, place.length))

    def can_open(self, seal: Seal) -> bool:
        """Whether the key of a chunk exists."""
        return can_open(self._sealer, seal)

    def _about(self, tenant: bytes, key: ChunkKey, length: int) -> bytes:
        """What a chunk's tag holds together with its bytes."""
        sizes = _ABOUT.pack(tenant, self.chunk_bytes, length, len(self._fingerprint))
        return _ABOUT_VERSION + sizes + self._fingerprint + key
