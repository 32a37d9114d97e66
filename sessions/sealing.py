"""What clients said, sealed before the database sees it.

Each tenant has a content key, derived from the installation's secret, which is not in the database:
a stolen one shows no content, and what is sealed for one tenant, as one kind, under one name, opens
as nothing else.
"""

import hashlib
import hmac
import os
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES: Final = 12
_KEYS_KEPT: Final = 1024


class SealBroken(Exception):
    """These bytes were not sealed as what they are opened as, or not with this secret."""


class Sealer:
    """Seals and opens content. Safe from any thread."""

    def __init__(self, secret: bytes) -> None:
        """``secret`` is the installation's."""

        @lru_cache(_KEYS_KEPT)
        def cipher(tenant: str) -> AESGCM:
            label = b"valet content key\0" + tenant.encode()
            return AESGCM(hmac.new(secret, label, hashlib.sha256).digest())

        self._cipher = cipher

    def seal(self, tenant: str, kind: str, name: str, content: bytes) -> bytes:
        """``content`` as the database may have it: 28 bytes longer. ``kind`` is a word, ``name``
        whatever tells this content from others of the kind."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(tenant).encrypt(nonce, content, _bound_to(tenant, kind, name))

    def open(self, tenant: str, kind: str, name: str, sealed: bytes) -> bytes:
        """The content. Raises SealBroken."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(tenant).decrypt(nonce, rest, _bound_to(tenant, kind, name))
        except (InvalidTag, ValueError):
            raise SealBroken("The content cannot be opened.") from None


def _bound_to(tenant: str, kind: str, name: str) -> bytes:
    return "\0".join((tenant, kind, name)).encode("utf-8", "surrogateescape")
