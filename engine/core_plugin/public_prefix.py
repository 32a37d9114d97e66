"""Prefixes that all tenants share: how their blocks are named, inside EngineCore.

A block's name is a chain over everything before it, and vLLM puts a request's salt into the first
link. Where a request begins with a public prefix, the chain begins with a salt of everybody's, and
the tenant's own comes in with the first block behind the prefix: all names from there on are as
much the tenant's as without a public prefix.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cache_tiers.types import SessionKey

OWNER: Final = SessionKey("public/prefixes")
"""Whose public chunks are on SSD. No tenant has this name, and no session can be dropped by it."""

_MARK: Final = "public:"

Hasher = Callable[[Any], list[bytes]]
"""vLLM's: the names of a request's full blocks that it has none for yet."""


@dataclass(frozen=True, slots=True)
class PublicSalt:
    """What a request's ``cache_salt`` says when its prompt begins with a public prefix. A tenant's
    salt is hex, and what clients send never gets here: only the server can say this."""

    tokens: int
    """The length of the prefix."""
    tenant: str
    """The salt of what comes after it."""

    def __str__(self) -> str:
        return f"{_MARK}{self.tokens}:{self.tenant}"

    @classmethod
    def parse(cls, cache_salt: str | None) -> "PublicSalt | None":
        """None for a salt that is all the tenant's."""
        if cache_salt is None or not cache_salt.startswith(_MARK):
            return None
        tokens, _, tenant = cache_salt.removeprefix(_MARK).partition(":")
        return cls(int(tokens), tenant)


def shared_prefix_hasher(hasher: Hasher, block_tokens: int) -> Hasher:
    """vLLM's ``hasher`` of blocks of ``block_tokens``, for requests with a ``PublicSalt`` too. Any
    thread."""

    def hash_blocks(request: Any) -> list[bytes]:
        salt = PublicSalt.parse(request.cache_salt)
        known = len(request.block_hashes)
        if salt is None or (known + 1) * block_tokens > request.num_tokens:
            return hasher(request)
        public = salt.tokens // block_tokens
        if public == 0:
            return hasher(_Request(request, cache_salt=salt.tenant))
        if known > public:
            return hasher(request)
        names: list[bytes] = []
        if known < public:
            end = min(request.num_tokens, public * block_tokens)
            names = hasher(_Request(request, cache_salt=_MARK, num_tokens=end))
        if known + len(names) == public:
            before = [*request.block_hashes, *names]
            before[-1] = hashlib.sha256(before[-1] + salt.tenant.encode()).digest()
            names += hasher(_Request(request, block_hashes=before))
        return names

    return hash_blocks


class _Request:
    """A request as vLLM's hasher is to see it."""

    def __init__(self, request: Any, **other: Any) -> None:
        self._request = request
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)
