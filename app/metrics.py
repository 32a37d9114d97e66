"""Valet's own counters, on the registry that the engine's ``/metrics`` shows."""

from typing import Any, Final

from prometheus_client import Counter, Gauge

from cache_tiers.hints import Foresight

TURNS: Final = Counter("valet_turns", "Turns that ended, by how.", ["outcome"])
REUSED_TOKENS: Final = Counter(
    "valet_reused_tokens", "Prompt tokens whose KV was reused, by tier.", ["tier"]
)
COMPUTED_TOKENS: Final = Counter("valet_computed_tokens", "Prompt tokens that were computed.")
MISSED_TOKENS: Final = Counter(
    "valet_missed_tokens", "Prompt tokens that were computed, by reason.", ["reason"]
)
STATE_FAILURES: Final = Counter(
    "valet_state_failures", "Requests served without their session's state, by step.", ["step"]
)
COORDINATION_FAILURES: Final = Counter(
    "valet_coordination_failures", "What Redis could not be asked, and this process did alone."
)
UPKEEP_FAILURES: Final = Counter(
    "valet_upkeep_failures", "Rounds in which a chore of the upkeep failed, by chore.", ["chore"]
)
TENANTS_STALE: Final = Gauge(
    "valet_tenants_stale", "1 while API keys and quotas cannot be read from the database."
)

HINT_FAILURES: Final = Counter(
    "valet_hint_failures", "What the engine was to be told of gaps, and was not."
)
RETURNS_DISTRUSTED: Final = Gauge(
    "valet_returns_distrusted_tenants",
    "Tenants whose next turns come otherwise than predicted: recency decides about their sessions.",
)
RETURNS_WITHIN: Final = Gauge(
    "valet_returns_within", "Share of the latest gaps that ended by the quantile.", ["quantile"]
)
RETURNS_DISTANCE: Final = Gauge(
    "valet_returns_distance", "Of the latest gaps from the predictions, Kolmogorov-Smirnov, 0 to 1."
)
RETURNS_GAPS: Final = Gauge("valet_returns_gaps", "Gaps that those shares are of.")
RETURNS_SHIFTS: Final = Gauge(
    "valet_returns_shifts", "How often a tenant's predictions stopped fitting since the start."
)
LEAD: Final = Gauge(
    "valet_lead_seconds", "From a request's first byte to the question for its KV, lately."
)


def show_foresight(foresight: Foresight) -> None:
    """Show what an engine says of its predictions."""
    RETURNS_DISTRUSTED.set(foresight.distrusted_tenants)
    RETURNS_DISTANCE.set(foresight.ks)
    RETURNS_GAPS.set(foresight.gaps)
    RETURNS_SHIFTS.set(foresight.shifts)
    LEAD.set(foresight.lead_s)
    for percent, share in foresight.within.items():
        RETURNS_WITHIN.labels(str(int(percent) / 100)).set(share)


def count_receipt(receipt: dict[str, Any]) -> None:
    """Count what one receipt says."""
    for tier, tokens in receipt["reused_tokens"].items():
        REUSED_TOKENS.labels(tier).inc(tokens)
    COMPUTED_TOKENS.inc(receipt["computed_tokens"])
    for miss in receipt["miss"]:
        MISSED_TOKENS.labels(miss["reason"]).inc(miss["tokens"])
