"""The nouns every tier shares."""

from enum import IntEnum, StrEnum
from typing import NewType

ChunkKey = NewType("ChunkKey", bytes)
"""Name of a chunk: vLLM's chained block hash and the KV cache group index, as raw bytes.

Two chunks with one key hold the same KV *within one fingerprint and one tenant*: the chain starts
from the tenant's salt, so equal text of two tenants never meets under one key.
"""

SessionKey = NewType("SessionKey", str)
"""A session's name inside the engine: ``"<tenant>/<session id>"``, unique over all tenants."""


def tenant_of(session: SessionKey) -> str:
    """The tenant in a session's name."""
    return session.partition("/")[0]


class Tier(StrEnum):
    """Where KV bytes are, fastest first."""

    DEVICE = "device"
    DRAM = "dram"
    SSD = "ssd"


class Standing(IntEnum):
    """What a chunk is worth to a tier that needs room: the lowest go first, and the longest unused
    among equals."""

    SUPERSEDED = 0
    """Its session's history has left it behind, and no other session holds it."""
    ORDINARY = 1
    PINNED = 2
    """Somebody has a lease on it: it goes when nothing else is left."""


class MissReason(StrEnum):
    """Why prompt tokens had to be computed. The vocabulary of a receipt's ``miss`` list."""

    NEW_SESSION = "new_session"
    APPENDED = "appended"
    PREFIX_CHANGED = "prefix_changed"
    BELOW_MINIMUM = "below_minimum"
    EVICTED = "evicted"
    EXPIRED = "expired"
    FINGERPRINT_CHANGED = "fingerprint_changed"
    CORRUPT_CHUNK = "corrupt_chunk"
    IO_TIMEOUT = "io_timeout"
    STORE_DISABLED = "store_disabled"
    RECOMPUTE_CHEAPER = "recompute_cheaper"
