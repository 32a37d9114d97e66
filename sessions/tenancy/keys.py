"""API keys: made, and known again. Pure.

A key is ``vk_<id>_<secret>``. The secret has 256 random bits, so its plain SHA-256 is all that has
to be kept: there is nothing to guess that salt or slow hashing would protect.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sessions.tenancy.types import ApiKey, KeyState

_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when it is known."""

    id: str
    text: str = field(repr=False)
    """The key itself. It is shown to its owner and kept nowhere."""
    digest: bytes = field(repr=False)


def new_key() -> NewKey:
    """A key that nobody can guess."""
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"vk_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewKey(key_id, text, digest(text))


def digest(key: str) -> bytes:
    """What a key is known by. ``key`` is whatever a client sent."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class KeyTable:
    """Keys by their digests, as they were at one moment. Immutable.

    Looking a key up in a dictionary takes as long for one key as for ten thousand. What its time
    may tell is how the *digest* of the offered key compares with the digests that are kept. Who
    would go on from there needs keys whose SHA-256 begins as wanted, and at the end of that road
    stands a digest, which opens nothing.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.digest: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def tenant(self, offered: bytes, now: datetime) -> str | None:
        """Whose key has the digest ``offered``; None when nobody's has, or not any more."""
        key = self._keys.get(offered)
        if key is None or not hmac.compare_digest(key.digest, offered):
            return None
        return key.tenant if key.state(now) is KeyState.VALID else None
