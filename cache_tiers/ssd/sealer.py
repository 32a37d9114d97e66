"""What turns a chunk into the bytes on the medium, and back.

Two implementations: ``encrypted.EncryptedSealer`` and ``clear.ClearSealer``. The store asks
nothing else about encryption.
"""

from collections.abc import Container, Iterable
from typing import Protocol

from cache_tiers.ssd.extent import Seal
from cache_tiers.types import SessionKey


class Keys(Protocol):
    """Which chunks can be opened."""

    @property
    def owners(self) -> Container[int]:
        """Live view: numbers of the keys that exist. Asked on every lookup."""
        ...

    @property
    def kept(self) -> Container[bytes]:
        """Live view: nonces of chunks whose data key is kept for a tenant after their owner's key
        was destroyed."""
        ...


def can_open(keys: Keys, seal: Seal) -> bool:
    """Whether the key of a chunk exists."""
    return seal.owner in keys.owners or seal.nonce in keys.kept


class Sealer(Keys, Protocol):
    """``seal`` and ``open`` run on many threads at once and touch memory alone; the others are
    called by one thread at a time and may raise OSError."""

    def owner_of(self, session: SessionKey) -> int:
        """The number of the session's key, made if need be (and durable after ``sync``)."""
        ...

    def seal(
        self, owner: int, plain: memoryview, into: memoryview, about: bytes
    ) -> tuple[memoryview, Seal]:
        """The bytes to store for ``plain``: a view of ``into`` (as long as ``plain``, never the
        same memory), or ``plain`` itself. ``about`` is authenticated, not stored. KeyError when
        the owner's key does not exist."""
        ...

    def open(self, seal: Seal, data: memoryview, about: bytes) -> bool:
        """Turn what was stored back into the chunk, in place. False when the bytes, the seal or
        ``about`` are not what was stored, or the key is gone: ``data`` is undefined then."""
        ...

    def shred(self, session: SessionKey, keep: Iterable[Seal]) -> bool:
        """Destroy the session's key; what it owns can never be opened again once this returns,
        except chunks of ``keep``, whose data keys are put under their tenant's group key first.
        Whether there was a key."""
        ...

    def release(self, nonces: Iterable[bytes]) -> None:
        """Destroy kept data keys: their chunks are deleted."""
        ...

    def sync(self) -> None:
        """Return when every key made would survive a loss of power."""
        ...

    def revive(self) -> None:
        """The folder around was lost and made anew: bring back what is in memory, if the file of
        it is gone."""
        ...

    def close(self) -> None:
        """Sync and close files. Idempotent."""
        ...
