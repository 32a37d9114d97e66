"""Chunks encrypted at rest: AES-256-GCM, each under a data key of its own."""

import os
from collections.abc import Container, Iterable
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from cache_tiers.ssd.extent import Seal
from cache_tiers.ssd.keyring import KEY_BYTES, Keyring
from cache_tiers.types import SessionKey, tenant_of

NONCE_BYTES = 12
_ABOUT_DATA_KEY = b"valet chunk data key"


class EncryptedSealer:
    """See ``Sealer``. The tag is in the seal, so what is stored is as long as the chunk. The work
    on a chunk's bytes releases the GIL. Owns the keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    @property
    def owners(self) -> Container[int]:
        """Never has NOT_ENCRYPTED: a chunk planted in the clear is not believed."""
        return self._keyring.owners

    @property
    def kept(self) -> Container[bytes]:
        return self._keyring.kept

    def owner_of(self, session: SessionKey) -> int:
        return self._keyring.session_key(session)

    def seal(
        self, owner: int, plain: memoryview, into: memoryview, about: bytes
    ) -> tuple[memoryview, Seal]:
        data_key = os.urandom(KEY_BYTES)
        nonce = os.urandom(NONCE_BYTES)
        wrapped = self._keyring.cipher(owner).encrypt(nonce, data_key, _ABOUT_DATA_KEY)
        encryptor = Cipher(AES256(data_key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(about)
        size = encryptor.update_into(plain, into)
        encryptor.finalize()
        return into[:size], Seal(owner, nonce, wrapped, encryptor.tag)

    def open(self, seal: Seal, data: memoryview, about: bytes) -> bool:
        data_key = self._data_key(seal)
        if data_key is None:
            return False
        try:
            decryptor = Cipher(AES256(data_key), GCM(seal.nonce, seal.tag)).decryptor()
        except ValueError:
            return False
        decryptor.authenticate_additional_data(about)
        decryptor.update_into(data, data)
        try:
            decryptor.finalize()
        except InvalidTag:
            return False
        return True

    def shred(self, session: SessionKey, keep: Iterable[Seal]) -> bool:
        """As ``Sealer.shred``. After an OSError call it again. Destroying goes before keeping: a
        disk without room keeps nothing, and the chunks of ``keep`` are misses."""
        owner = self._keyring.find(session)
        if owner is not None:
            seals = [seal for seal in keep if seal.owner == owner]
            self._keep(tenant_of(session), seals)
            try:
                # What is kept must be on the medium before the only other way to it is destroyed.
                self._keyring.sync()
            except OSError:
                # Nothing is destroyed yet, and the next call may keep less.
                with suppress(OSError):
                    self._keyring.release(seal.nonce for seal in seals)
                raise
        return self._keyring.destroy(session)

    def release(self, nonces: Iterable[bytes]) -> None:
        self._keyring.release(nonces)

    def sync(self) -> None:
        self._keyring.sync()

    def revive(self) -> None:
        self._keyring.revive()

    def close(self) -> None:
        self._keyring.close()

    def _keep(self, tenant: str, seals: Iterable[Seal]) -> None:
        try:
            for seal in seals:
                if data_key := self._data_key(seal):
                    self._keyring.keep(tenant, seal.nonce, data_key)
        except OSError:
            return

    def _data_key(self, seal: Seal) -> bytes | None:
        try:
            owner = self._keyring.cipher(seal.owner)
            return owner.decrypt(seal.nonce, seal.wrapped, _ABOUT_DATA_KEY)
        except KeyError:
            return self._keyring.kept_key(seal.nonce)
        except (InvalidTag, ValueError):
            return None
