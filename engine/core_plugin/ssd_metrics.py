"""What the SSD tier says of itself on ``/metrics``."""

from collections.abc import Callable
from dataclasses import dataclass

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.store import StoreStats
from engine.core_plugin.vllm_compat import (
    OffloadingConnectorStats,
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
)


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of the store's own figures."""

    name: str
    text: str
    value: Callable[[StoreStats], float]


_GAUGES = (
    _Metric("bytes_used", "Bytes that the chunk store takes on its disk.", lambda s: s.bytes_used),
    _Metric("bytes_limit", "Limit of the chunk store in bytes.", lambda s: s.bytes_limit),
    _Metric(
        "healthy",
        "1 while the chunk store's disk takes writes, else 0.",
        lambda s: float(s.healthy),
    ),
)
_COUNTERS = (
    _Metric(
        "corrupt_chunks", "Chunks found not to be what was written.", lambda s: s.corrupt_chunks
    ),
    _Metric(
        "evicted_chunks", "Chunks evicted to stay within the limit.", lambda s: s.evicted_chunks
    ),
    _Metric("failed_reads", "Chunk reads that the disk failed.", lambda s: s.failed_reads),
    _Metric("failed_writes", "Chunk writes that the disk refused.", lambda s: s.failed_writes),
    _Metric("late_reads", "Chunks that were not read by their deadline.", lambda s: s.late_reads),
    _Metric(
        "over_budget_chunks",
        "Chunks not written because the daily write budget was spent.",
        lambda s: s.over_budget_chunks,
    ),
    _Metric("bytes_written", "Bytes of chunks written.", lambda s: s.bytes_written),
    _Metric(
        "device_bytes_written",
        "Bytes written to the disk, all told.",
        lambda s: s.device_bytes_written,
    ),
)
_BUDGET_LEFT = "write_budget_left"
_DROPPED = "dropped_writes"


def definitions() -> dict[str, OffloadingMetricMetadata]:
    """Every metric's kind and text, by name."""
    gauges = {metric.name: metric.text for metric in _GAUGES}
    gauges[_BUDGET_LEFT] = "Share of a day's write budget that is left; 1 without a budget."
    counters = {metric.name: metric.text for metric in _COUNTERS}
    counters[_DROPPED] = "Chunks not written because too many waited for the disk."
    found: dict[str, OffloadingMetricMetadata] = {}
    for name, text in gauges.items():
        found[_full(name)] = OffloadingGaugeMetadata(documentation=text)
    for name, text in counters.items():
        found[_full(name)] = OffloadingCounterMetadata(documentation=text)
    return found


class SsdMetrics:
    """Gauges as they are, counters since they were last told."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def since_last(
        self, now: StoreStats, budget: WriteBudget | None, dropped_writes: int
    ) -> OffloadingConnectorStats:
        """What to publish."""
        stats = OffloadingConnectorStats()
        for metric in _GAUGES:
            stats.set_gauge(_full(metric.name), metric.value(now))
        stats.set_gauge(_full(_BUDGET_LEFT), budget.fraction_left if budget else 1.0)
        totals = {metric.name: metric.value(now) for metric in _COUNTERS}
        for name, total in (totals | {_DROPPED: dropped_writes}).items():
            if total > self._told.get(name, 0):
                stats.increase_counter(_full(name), total - self._told.get(name, 0))
                self._told[name] = total
        return stats


def _full(name: str) -> str:
    return f"vllm:valet_ssd_{name}"
