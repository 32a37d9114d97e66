"""What one request reused."""

import msgspec

from cache_tiers.hints.wire import Wire
from cache_tiers.types import MissReason


class Miss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of prompt tokens that was computed, and why."""

    reason: MissReason
    at_token: int
    tokens: int


class KvReport(Wire, frozen=True):
    """What one request reused. All counts in tokens of its prompt.

    ``device + dram + ssd + computed == prompt``. Each counts what was in its tier when the request,
    or a prefetch before it, asked; ``prefetched`` is the part of ``dram`` and ``ssd`` that a
    prefetch had brought further up by the time the request asked.
    """

    prompt: int
    computed: int
    device: int = 0
    dram: int = 0
    ssd: int = 0
    prefetched: int = 0
    bytes_loaded: int = 0
    load_ms: float = 0.0
    misses: tuple[Miss, ...] = ()
    superseded: int = 0
    """Tokens of the session's previous history that this prompt leaves behind: their chunks are the
    first to go."""
