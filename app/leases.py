"""What a request's own fields ask of the cache: a lease on a tier. Pure.

Anthropic's ``cache_control`` (5 minutes or an hour) is a lease on DRAM, as is OpenAI's
``prompt_cache_retention`` of ``in_memory``; its ``24h`` is one on SSD. Every use renews a lease, as
every use of those caches does. The engine accepts these fields and does nothing with them.

Errors::

    BadLease    a value that those APIs refuse too
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from app.wire import Api
from cache_tiers.types import Tier


class BadLease(Exception):
    """A value that those APIs refuse too."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        """The body's field."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A lease that a request asks for."""

    tier: Tier
    ttl_s: int
    source: str
    """The field's name."""


CACHE_CONTROL: Final = "cache_control"
RETENTION: Final = "prompt_cache_retention"

_TTL_S: Final = {None: 300, "5m": 300, "1h": 3600}
_IN_MEMORY: Final = Wish(Tier.DRAM, 600, RETENTION)
_RETENTIONS: Final = {
    "in_memory": _IN_MEMORY,
    "in-memory": _IN_MEMORY,
    "24h": Wish(Tier.SSD, 86_400, RETENTION),
}
_MAX_CONTROLS: Final = 4
"""In one request, as Anthropic has it."""
_MAX_DEPTH: Final = 4
"""Of content inside content: a message, its blocks, a tool result's blocks, and what a document
holds."""


def wish_of(api: Api, body: dict[str, Any]) -> Wish | None:
    """The lease that ``body`` asks for: of several, the longest. Raises BadLease."""
    if api is Api.MESSAGES:
        controls = list(_controls(body))
        if len(controls) > _MAX_CONTROLS:
            raise BadLease(
                CACHE_CONTROL,
                f"At most {_MAX_CONTROLS} blocks may have {CACHE_CONTROL}, not {len(controls)}.",
            )
        return max(controls, key=lambda wish: wish.ttl_s, default=None)
    value = body.get(RETENTION)
    if value is None:
        return None
    wish = _RETENTIONS.get(value) if isinstance(value, str) else None
    if wish is None:
        raise BadLease(RETENTION, f"{RETENTION} must be 'in_memory' or '24h'.")
    return wish


def _controls(body: dict[str, Any]) -> Iterator[Wish]:
    if body.get(CACHE_CONTROL) is not None:
        yield _control(body[CACHE_CONTROL], CACHE_CONTROL)
    for field in ("system", "tools", "messages"):
        yield from _within(body.get(field), field, _MAX_DEPTH)


def _within(items: object, path: str, depth: int) -> Iterator[Wish]:
    if not isinstance(items, list) or not depth:
        return
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        place = f"{path}.{index}"
        if item.get(CACHE_CONTROL) is not None:
            yield _control(item[CACHE_CONTROL], f"{place}.{CACHE_CONTROL}")
        if path != "tools":
            yield from _within(item.get("content"), f"{place}.content", depth - 1)


def _control(value: object, path: str) -> Wish:
    if not isinstance(value, dict) or value.get("type") != "ephemeral":
        raise BadLease(path, f"{path}: an object of the type 'ephemeral' is expected.")
    ttl = value.get("ttl")
    if not (ttl is None or isinstance(ttl, str)) or ttl not in _TTL_S:
        raise BadLease(path, f"{path}.ttl must be '5m' or '1h'.")
    return Wish(Tier.DRAM, _TTL_S[ttl], CACHE_CONTROL)
