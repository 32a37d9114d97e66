"""Chunks in the clear: what a store without encryption does."""

# ruff: noqa: ARG002 - the signatures are the protocol's

from collections.abc import Container, Iterable

import xxhash

from cache_tiers.ssd.extent import NOT_ENCRYPTED, Seal
from cache_tiers.types import SessionKey

_OWNERS = frozenset({NOT_ENCRYPTED})
_NO_NONCE = bytes(12)
_NO_KEY = bytes(48)


class ClearSealer:
    """See ``Sealer``. Finds damage and misplaced chunks, not forgeries: the tag is an xxh3_128,
    seeded with ``about``. Chunks that were encrypted are not believed here.

    Nothing is shredded: a deleted chunk stays on the medium until its pages are written again.
    """

    @property
    def owners(self) -> Container[int]:
        return _OWNERS

    @property
    def kept(self) -> Container[bytes]:
        return ()

    def owner_of(self, session: SessionKey) -> int:
        return NOT_ENCRYPTED

    def seal(
        self, owner: int, plain: memoryview, into: memoryview, about: bytes
    ) -> tuple[memoryview, Seal]:
        """``plain`` itself."""
        if owner != NOT_ENCRYPTED:
            raise KeyError(owner)
        return plain, Seal(NOT_ENCRYPTED, _NO_NONCE, _NO_KEY, _tag(plain, about))

    def open(self, seal: Seal, data: memoryview, about: bytes) -> bool:
        return seal.owner == NOT_ENCRYPTED and seal.tag == _tag(data, about)

    def shred(self, session: SessionKey, keep: Iterable[Seal]) -> bool:
        """There is no key to destroy; the store deletes the chunks."""
        return False

    def release(self, nonces: Iterable[bytes]) -> None:
        return

    def sync(self) -> None:
        return

    def revive(self) -> None:
        return

    def close(self) -> None:
        return


def _tag(data: memoryview, about: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data, xxhash.xxh3_64_intdigest(about))
