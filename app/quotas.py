"""Requests and tokens a minute: charged before a request starts, settled when it is over.

Every request of a tenant that has such a quota costs one request. One that makes the engine compute
also costs tokens: first an estimate, and in the end what its generations really had, so that what
was refused by the engine costs none. The coordinator keeps the buckets; while it cannot be reached,
nobody is held up.
"""

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Message, Send

from app.errors import Problem
from engine.port import Generation
from sessions.coordination.port import Charge, CoordinationLost, Coordinator, Rate
from sessions.tenancy.directory import TenantDirectory

_BYTES_PER_TOKEN: Final = 4
_LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MAX_ASKED: Final = 2**31


class RateLimits:
    """The buckets of all tenants. Used on the event loop."""

    def __init__(
        self,
        coordinator: Coordinator,
        directory: TenantDirectory,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """``spawn`` runs what no answer has to wait for."""
        self._coordinator = coordinator
        self._directory = directory
        self._spawn = spawn

    async def admit(self, tenant: str) -> "Admission":
        """Charge one request; the admission says whether it is let in."""
        quotas = self._directory.quotas(tenant)
        admission = Admission(
            self,
            _Bucket.of("requests", tenant, quotas.requests_per_minute),
            _Bucket.of("tokens", tenant, quotas.tokens_per_minute),
        )
        await admission.charge_request()
        return admission

    async def charge(self, bucket: "_Bucket", units: int) -> Charge | None:
        """None when nobody knows."""
        try:
            return await self._coordinator.charge(bucket.name, units, bucket.rate)
        except CoordinationLost:
            return None

    def refund(self, bucket: "_Bucket", units: int) -> None:
        """Give units back, or take more when negative, soon."""
        if units:
            self._spawn(self._refund(bucket, units))

    async def _refund(self, bucket: "_Bucket", units: int) -> None:
        try:
            await self._coordinator.refund(bucket.name, units, bucket.rate)
        except CoordinationLost:
            return  # a bucket that is lost is full when it comes back


class Admission:
    """One request, and whether it is let in."""

    def __init__(
        self, limits: RateLimits, requests: "_Bucket | None", tokens: "_Bucket | None"
    ) -> None:
        self.refusal: Problem | None = None
        """Why it is not let in."""
        self._limits = limits
        self._requests = requests
        self._tokens = tokens
        self._charged = 0
        self._unseen = 0
        self._headers: list[tuple[bytes, bytes]] = []

    async def charge_request(self) -> None:
        """Called once, first."""
        if self._requests is not None:
            await self._charge(self._requests, 1)

    async def charge_tokens(self, size: int, body: Mapping[str, Any]) -> None:
        """Charge the estimate for a body of ``size`` bytes. A request that is refused here costs
        nothing at all."""
        if self._tokens is None:
            return
        # No more than the bucket holds: what is really used is known, and charged, in the end.
        units = min(estimated_tokens(size, body), self._tokens.rate.per_minute)
        if await self._charge(self._tokens, units):
            self._charged, self._unseen = units, prompt_estimate(size)
        elif self.refusal is not None and self._requests is not None:
            self._limits.refund(self._requests, 1)

    def settle(self, generations: Sequence[Generation]) -> None:
        """The request is over, however it ended."""
        if self._tokens is not None and self._charged:
            used = used_tokens(generations, self._unseen)
            self._limits.refund(self._tokens, self._charged - used)
            self._charged = 0

    def telling(self, send: Send) -> Send:
        """``send``, with the answer's headers saying what is left."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and self._headers:
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        return tell

    async def _charge(self, bucket: "_Bucket", units: int) -> bool:
        """Whether it was charged."""
        charge = await self._limits.charge(bucket, units)
        if charge is None:
            return False
        self._headers += bucket.headers(charge)
        if not charge.allowed:
            self.refusal = bucket.refusal(charge)
        return charge.allowed


class _Bucket:
    """One kind of units of one tenant."""

    def __init__(self, kind: str, tenant: str, per_minute: int) -> None:
        self.kind = kind
        self.name = f"{kind}:{tenant}"
        self.rate = Rate(per_minute)

    @classmethod
    def of(cls, kind: str, tenant: str, per_minute: int | None) -> "_Bucket | None":
        return cls(kind, tenant, per_minute) if per_minute else None

    def headers(self, charge: Charge) -> list[tuple[bytes, bytes]]:
        """As OpenAI's API has them."""
        limit = self.rate.per_minute
        values = {
            "limit": str(limit),
            "remaining": str(charge.remaining),
            "reset": span_text((limit - charge.remaining) / limit * 60),
        }
        return [(f"x-ratelimit-{k}-{self.kind}".encode(), v.encode()) for k, v in values.items()]

    def refusal(self, charge: Charge) -> Problem:
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            self.kind,
            "rate_limit_exceeded",
            f"Rate limit reached: {self.rate.per_minute} {self.kind} a minute. "
            f"Please try again in {span_text(charge.retry_after_s)}.",
            retry_after_s=max(1, math.ceil(charge.retry_after_s)),
        )


def prompt_estimate(size: int) -> int:
    """Tokens of a body of ``size`` bytes."""
    return size // _BYTES_PER_TOKEN + 1


def estimated_tokens(size: int, body: Mapping[str, Any]) -> int:
    """What a request may come to: its body, and the longest answer that it asks for. Where it does
    not say, or says nonsense, its body alone."""
    asked = [_whole(body.get(name)) for name in _LIMIT_FIELDS]
    return prompt_estimate(size) + max(asked) * max(1, _whole(body.get("n")))


def used_tokens(generations: Sequence[Generation], unseen: int) -> int:
    """What the generations of a request had, prompts and answers. ``unseen`` is the prompt of one
    that the engine never told of: of a client that left too early."""
    return sum(_prompt(g, unseen) + g.output_tokens for g in generations)


def span_text(seconds: float) -> str:
    """A time as OpenAI's headers write it: ``6m0s``, ``1.5s``, ``20ms``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _prompt(generation: Generation, unseen: int) -> int:
    if generation.report is not None:
        return generation.report.prompt
    return len(generation.prompt_tokens) or unseen


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, 0), _MAX_ASKED)
    return 0
