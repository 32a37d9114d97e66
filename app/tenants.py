"""What the server asks about the tenant of a request, and what it tells of one that is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.auth import Authenticator
from app.errors import TOO_MANY_SESSIONS, Problem
from app.meter import TenantMeter
from app.quotas import Admission, RateLimits
from engine.port import Generation
from sessions.tenancy.directory import TenantDirectory
from sessions.tenancy.session_quota import SessionQuota


@dataclass(frozen=True, slots=True)
class Tenants:
    """All that is known of tenants while serving."""

    directory: TenantDirectory
    auth: Authenticator
    limits: RateLimits
    session_quota: SessionQuota
    meter: TenantMeter

    async def refuses_turn(
        self,
        tenant: str,
        session_id: str,
        admission: Admission,
        size: int,
        body: Mapping[str, Any],
    ) -> Problem | None:
        """Why a turn of this session, with a body of ``size`` bytes, goes over a quota; None when
        it does not, and its tokens are charged."""
        if not await self.session_quota.admits(tenant, session_id):
            return TOO_MANY_SESSIONS
        await admission.charge_tokens(size, body)
        return admission.refusal

    def settle(self, tenant: str, admission: Admission, generations: Sequence[Generation]) -> None:
        """The turn is over, however it ended."""
        admission.settle(generations)
        self.meter.count(tenant, generations)
