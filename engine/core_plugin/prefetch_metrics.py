"""What prefetches were good for, on ``/metrics``."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.core_plugin.vllm_compat import (
    OffloadingConnectorStats,
    OffloadingCounterMetadata,
    OffloadingMetricMetadata,
)


@dataclass(frozen=True, slots=True)
class Brought:
    """What was brought up before it was asked for, since the engine's start."""

    chunks: int
    used: int
    """Of ``chunks``, found by a request where they had been brought."""
    late: int
    """Still on their way when a request asked for them."""
    late_turns: int
    """Requests that asked for such, counted for each of the tiers that they were coming to."""
    late_s: float
    """How long after those requests had asked the last of theirs came, in all."""
    wasted_bytes: int
    """Of chunks that left their tier again before anybody asked for them."""


@dataclass(frozen=True, slots=True)
class _Counter:
    name: str
    text: str
    value: Callable[[Brought], float]


_COUNTERS = (
    _Counter("chunks", "Chunks brought up by prefetches.", lambda b: b.chunks),
    _Counter(
        "used_chunks",
        "Of those, the ones that a request found where they had been brought.",
        lambda b: b.used,
    ),
    _Counter(
        "late_chunks",
        "Chunks still on their way when a request asked for them.",
        lambda b: b.late,
    ),
    _Counter(
        "late_turns",
        "Requests that asked for such chunks, once for each tier that they were coming to.",
        lambda b: b.late_turns,
    ),
    _Counter(
        "late_seconds",
        "How long after those requests had asked the last of their chunks came.",
        lambda b: b.late_s,
    ),
    _Counter(
        "wasted_bytes",
        "Bytes of chunks that nobody asked for before they left their tier again.",
        lambda b: b.wasted_bytes,
    ),
)


def definitions() -> dict[str, OffloadingMetricMetadata]:
    """Every metric's kind and text, by name."""
    return {_full(c.name): OffloadingCounterMetadata(documentation=c.text) for c in _COUNTERS}


class PrefetchMetrics:
    """Counters since they were last told."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def since_last(self, now: Brought) -> OffloadingConnectorStats:
        """What to publish; empty when nothing has changed."""
        stats = OffloadingConnectorStats()
        for counter in _COUNTERS:
            name, total = _full(counter.name), counter.value(now)
            if total > (before := self._told.get(name, 0)):
                stats.increase_counter(name, total - before)
                self._told[name] = total
        return stats


def _full(name: str) -> str:
    return f"vllm:valet_prefetch_{name}"
