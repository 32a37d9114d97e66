"""What a server knows of tenants and keys: in memory, and following the database.

No request waits for the database to find out whose it is. A change reaches every server within
``POLL_S`` and the time of two small queries. While the database is lost, what was known last goes
on being known; keys still expire, by this machine's clock.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from cache_tiers.types import Tier
from sessions.database import Database
from sessions.ports import Clock
from sessions.tenancy.keys import KeyTable
from sessions.tenancy.quotas import Quotas
from sessions.tenancy.repository import TenancyRepository

POLL_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    keys: KeyTable
    any_keys: bool
    quotas: dict[str, Quotas]
    limits_bytes: bool


class TenantDirectory:
    """Tenants and keys as the database had them when it was last asked."""

    def __init__(self, database: Database, defaults: Quotas, clock: Clock) -> None:
        """``defaults`` are the limits of a tenant that has none of its own."""
        self._database = database
        self._defaults = defaults
        self._clock = clock
        self._known: _Known | None = None
        self._stale = False

    @property
    def known(self) -> bool:
        """Whether the database has ever answered."""
        return self._known is not None

    @property
    def stale(self) -> bool:
        """Whether the database did not answer when it was last asked."""
        return self._stale

    @property
    def has_keys(self) -> bool:
        """Whether the database had keys, valid or not: then a key is asked for. A key that is
        revoked does not open the server to everybody."""
        return self._known is not None and self._known.any_keys

    def tenant(self, digest: bytes) -> str | None:
        """Whose valid key has this digest, if anybody's."""
        return None if self._known is None else self._known.keys.tenant(digest, self._clock())

    def quotas(self, tenant: str) -> Quotas:
        """The limits of a tenant, known or not."""
        own = None if self._known is None else self._known.quotas.get(tenant)
        return self._defaults if own is None else own.over(self._defaults)

    @property
    def limits_bytes(self) -> bool:
        """Whether any tenant has a quota on bytes."""
        return _limits_bytes(self._defaults) or (
            self._known is not None and self._known.limits_bytes
        )

    async def refresh(self) -> None:
        """Ask the database. Raises nothing: what fails counts as no answer."""
        try:
            async with self._database.begin() as connection:
                repo = TenancyRepository(connection)
                version = await repo.version()
                if self._known is None or version != self._known.version:
                    keys, tenants = await repo.keys(), await repo.tenants()
                    self._known = _Known(
                        version,
                        KeyTable(key for key in keys if key.revoked_at is None),
                        bool(keys),
                        {tenant.name: tenant.quotas for tenant in tenants},
                        any(_limits_bytes(tenant.quotas) for tenant in tenants),
                    )
        except Exception as error:  # noqa: BLE001 - whatever it is, the next answer may be well
            # Of rows that are none of ours, for one. Nothing that they say is taken.
            self._lost(error)
            return
        if self._stale:
            self._stale = False
            _log.info("API keys and quotas follow the database again")

    async def watch(self) -> None:
        """Follow the database until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.refresh()

    def _lost(self, error: Exception) -> None:
        if self._stale:
            return
        self._stale = True
        what = "those known before hold" if self.known else "none of the database is accepted"
        # The kind alone: the message may quote a row.
        kind = type(error).__name__
        _log.warning("API keys and quotas cannot be read from the database (%s): %s", kind, what)


def _limits_bytes(quotas: Quotas) -> bool:
    return any(quotas.bytes_in(tier) for tier in Tier)
