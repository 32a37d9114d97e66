"""What a tenant may use. Pure.

A quota is absent where the tenant has none of its own, and 0 where there is no limit; absent on
every level is no limit too.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

from cache_tiers.types import Tier

MOST: Final = 2**53 - 1
"""The largest quota: a whole number for every reader of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Limits of one tenant, or of every tenant that has none of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and output tokens together, those included whose KV is reused."""
    sessions: int | None = None
    """Kept at a time."""
    dram: int | None = None
    """Bytes of KV in the tier, as are ``ssd`` and ``device``."""
    ssd: int | None = None
    device: int | None = None

    def over(self, defaults: "Quotas") -> "Quotas":
        """These, and ``defaults`` for those that are absent."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return Quotas(**asdict(defaults) | given)

    def limits(self) -> dict[str, int]:
        """Those that limit something, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    def bytes_in(self, tier: Tier) -> int | None:
        """The limit of one tier; None for none."""
        limit = {Tier.DEVICE: self.device, Tier.DRAM: self.dram, Tier.SSD: self.ssd}[tier]
        return limit or None

    def stored(self) -> dict[str, int]:
        """As the database keeps them: those that are present."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def read(cls, stored: object) -> "Quotas":
        """The reverse. What an older or newer version, or a stranger, wrote there and cannot be a
        quota is absent."""
        if not isinstance(stored, Mapping):
            return cls()
        return cls(
            **{name: value for name, value in stored.items() if name in NAMES and _is_one(value)}
        )


NAMES: Final = tuple(field.name for field in fields(Quotas))
BYTES: Final = ("dram", "ssd", "device")
"""Those of them that count bytes."""


def _is_one(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
