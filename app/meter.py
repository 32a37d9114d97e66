"""What each tenant computed and did not have to, since the server started."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cache_tiers.types import Tier
from engine.port import Generation


class TenantMeter:
    """Counters by tenant, as ``/metrics`` has them for all together. There are as many as tenants
    that asked, and a tenant is something that the operator made."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._counts: dict[str, Counter[str]] = {}

    def count(self, tenant: str, generations: Sequence[Generation]) -> None:
        """One request is over."""
        if not generations:
            return
        counts = self._counts.setdefault(tenant, Counter())
        counts["turns"] += 1
        for generation in generations:
            counts["output"] += generation.output_tokens
            if (report := generation.report) is not None:
                counts["prompt"] += report.prompt
                counts["computed"] += report.computed
                counts[Tier.DEVICE] += report.device
                counts[Tier.DRAM] += report.dram
                counts[Tier.SSD] += report.ssd

    def of(self, tenant: str) -> dict[str, Any]:
        """The tenant's own, as the API gives them."""
        counts = self._counts.get(tenant, Counter[str]())
        return {
            "since": int(self._since.timestamp()),
            "turns": counts["turns"],
            "prompt_tokens": counts["prompt"],
            "computed_tokens": counts["computed"],
            "reused_tokens": {tier.value: counts[tier] for tier in Tier},
            "output_tokens": counts["output"],
        }
