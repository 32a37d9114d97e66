"""The keys that wrap chunks' data keys, in one file: to destroy a key is to overwrite its record.

The records of the file (see ``key_slots``)::

    kind            name (32 bytes)           number (u64)      wraps, under
    header (twice)  magic                     format version    the names key, the master key
    session, group  digest of the name        its own, random   its key, the master key
    kept            a chunk's nonce, zeros    its group's       a data key, the group key

Every wrapping is AES-256-GCM with a random nonce and authenticates the rest of its record. A digest
is HMAC-SHA256 under the names key: the file names nobody, and a new master key leaves digests as
they are.
"""

import hmac
import logging
import os
import threading
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cache_tiers.ssd.extent import NOT_ENCRYPTED
from cache_tiers.ssd.files import Files
from cache_tiers.ssd.key_slots import (
    FREE,
    HEADER_SLOTS,
    SLOT_BYTES,
    STEP,
    Record,
    Slots,
    erase_draft,
    wrap,
    write_whole,
)
from cache_tiers.store import StoreUnusable
from cache_tiers.types import SessionKey

_log = logging.getLogger(__name__)

VERSION = 1
KEY_BYTES = 32
MAX_SESSIONS = 2**17
MAX_KEPT = 2**19
_MAGIC = b"VALETKEY".ljust(32, b"\0")
_MAX_CIPHERS = 4096
"""Unwrapped keys in memory; to unwrap one again takes microseconds."""


class WrongMasterKey(StoreUnusable):
    """The keyring was made with another master key."""


class Keyring:
    """``cipher``, ``kept_key``, ``owners`` and ``kept`` are for any thread and touch memory alone;
    the rest is called by one thread at a time and may raise OSError.

    Changes are in memory until ``sync``; what it could not write it writes the next time. At its
    limits the keyring forgets the keys asked for longest ago: their chunks become misses.
    """

    @classmethod
    def open(
        cls,
        path: Path,
        master: bytes,
        files: Files,
        *,
        read_only: bool = False,
        max_sessions: int = MAX_SESSIONS,
        max_kept: int = MAX_KEPT,
    ) -> "Keyring":
        """The keyring at ``path``, made if there is none; nobody else may have it open, unless
        ``read_only``: then nothing is written, now or later. ``master`` has 32 bytes. A damaged
        record is a lost key.

        Raises WrongMasterKey; StoreUnusable for a file that cannot be used, is not a keyring, or
        was written by a newer version.
        """
        under = _master(master)
        try:
            if not read_only:
                erase_draft(path, files)
            try:
                file = files.open(path, writable=not read_only)
            except FileNotFoundError:
                if read_only:
                    raise
                files.make_folder(path.parent)
                image = _with_header(bytes(STEP * SLOT_BYTES), under, os.urandom(KEY_BYTES))
                file = write_whole(path, image, files)
            try:
                slots = Slots(files, file, path, read_only)
                names = _names_key(slots, under, path)
            except BaseException:
                files.close(file)
                raise
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be used: {error}") from error
        return cls(slots, under, names, max_sessions, max_kept)

    def __init__(
        self, slots: Slots, master: AESGCM, names: bytes, max_sessions: int, max_kept: int
    ) -> None:
        self._slots = slots
        self._master = master
        self._names = names
        self._sessions = _Keys(_Kind.SESSION, max_sessions)
        self._groups = _Keys(_Kind.GROUP, max_kept)
        self._kept: dict[bytes, int] = {}
        """Slots by the chunk's nonce, oldest first."""
        self._max_kept = max_kept
        self._ciphers: dict[int, AESGCM] = {}
        self._lock = threading.Lock()
        """So that no destroyed key comes back to ``_ciphers``."""
        self._load()

    @property
    def owners(self) -> Container[int]:
        """Live view: numbers of session keys. Never has 0."""
        return self._sessions.slots

    @property
    def kept(self) -> Container[bytes]:
        """Live view: nonces of kept data keys."""
        return self._kept

    def find(self, session: SessionKey) -> int | None:
        """The number of the session's key, if there is one."""
        return self._sessions.numbers.get(self._digest(_Kind.SESSION, session))

    def session_key(self, session: SessionKey) -> int:
        """The number of the session's key, made if need be. A number is 63 random bits: it never
        comes back for another key."""
        return self._number(self._sessions, session)

    def cipher(self, number: int) -> AESGCM:
        """What the session or group key ``number`` wraps with; KeyError when it is gone."""
        cipher = self._ciphers.get(number)
        if cipher is not None:
            return cipher
        keys = self._sessions if number in self._sessions.slots else self._groups
        record = self._slots.record(keys.slots[number])
        # Another thread may have put another record there meanwhile.
        key = record.unwrap(self._master) if record and record.number == number else None
        if key is None:
            raise KeyError(number)
        cipher = AESGCM(key)
        with self._lock:
            if number in keys.slots:
                if len(self._ciphers) >= _MAX_CIPHERS:
                    self._ciphers.clear()
                self._ciphers[number] = cipher
        return cipher

    def keep(self, tenant: str, nonce: bytes, data_key: bytes) -> None:
        """Keep a chunk's data key under the tenant's group key, which is made if need be."""
        self._discard([nonce])
        while len(self._kept) >= self._max_kept:
            self._discard([next(iter(self._kept))])
        number = self._number(self._groups, tenant)
        name = nonce.ljust(32, b"\0")
        self._kept[nonce] = self._slots.add(
            wrap(self.cipher(number), name, number, _Kind.KEPT, data_key)
        )

    def kept_key(self, nonce: bytes) -> bytes | None:
        """The data key kept for a chunk; None when it is gone."""
        slot = self._kept.get(nonce)
        record = None if slot is None else self._slots.record(slot)
        if record is None or record.name != nonce.ljust(32, b"\0"):
            return None
        try:
            return record.unwrap(self.cipher(record.number))
        except KeyError:
            return None

    def destroy(self, session: SessionKey) -> bool:
        """Overwrite the session's key, on the medium too. Whether there was one. After an OSError
        it is gone from memory, and the next call or ``sync`` that succeeds completes the work."""
        there_was = self._forget(self._sessions, self._digest(_Kind.SESSION, session))
        self.sync()
        return there_was

    def release(self, nonces: Iterable[bytes]) -> None:
        """As ``destroy``, for kept data keys."""
        self._discard(nonces)
        self.sync()

    def sync(self) -> None:
        """Return when a loss of power would leave all that is in memory now."""
        self._slots.sync()

    def revive(self) -> None:
        """Write the file anew from memory, durably, if it was removed."""
        self._slots.revive()

    def close(self) -> None:
        """Sync and close the file. Idempotent."""
        self._slots.close()

    def _load(self) -> None:
        found = sorted(self._slots.records(), key=lambda place: (place[1].kind, place[0]))
        groups_in_use = {record.number for _, record in found if record.kind == _Kind.KEPT}
        for slot, record in found:
            if not self._take(slot, record, groups_in_use):
                self._slots.wipe(slot)
        if self._slots.damaged:
            _log.warning("The keyring has %d damaged records: lost keys.", self._slots.damaged)

    def _take(self, slot: int, record: Record, groups_in_use: set[int]) -> bool:
        """Take over a record of the file; False for one of no use."""
        name, number = record.name, record.number
        if record.kind == _Kind.KEPT:
            return number in self._groups.slots and self._kept.setdefault(name[:12], slot) == slot
        keys = self._groups if record.kind == _Kind.GROUP else self._sessions
        if record.kind != keys.kind or name in keys.numbers or not self._unused(number):
            return False
        # A group whose last chunk was released: tenants come and go, the file must not grow.
        if record.kind == _Kind.GROUP and number not in groups_in_use:
            return False
        keys.slots[number] = slot
        keys.numbers[name] = number
        return True

    def _number(self, keys: "_Keys", name: str) -> int:
        digest = self._digest(keys.kind, name)
        number = keys.numbers.get(digest)
        if number is not None and self._usable(number):
            # Sessions of one request come by the thousand; those that go on outlast them.
            del keys.numbers[digest]
            keys.numbers[digest] = number
            return number
        self._forget(keys, digest)
        while len(keys.numbers) >= keys.limit:
            self._forget(keys, next(iter(keys.numbers)))
        number = NOT_ENCRYPTED
        while not self._unused(number):
            number = int.from_bytes(os.urandom(8), "little") >> 1
        record = wrap(self._master, digest, number, keys.kind, os.urandom(KEY_BYTES))
        keys.slots[number] = self._slots.add(record)
        keys.numbers[digest] = number
        return number

    def _digest(self, kind: int, name: str) -> bytes:
        message = bytes([kind]) + name.encode(errors="surrogatepass")
        return hmac.digest(self._names, message, "sha256")

    def _unused(self, number: int) -> bool:
        taken = number in self._sessions.slots or number in self._groups.slots
        return number != NOT_ENCRYPTED and not taken

    def _usable(self, number: int) -> bool:
        try:
            self.cipher(number)
        except KeyError:
            return False
        return True

    def _forget(self, keys: "_Keys", digest: bytes) -> bool:
        number = keys.numbers.pop(digest, None)
        if number is None:
            return False
        with self._lock:
            slot = keys.slots.pop(number)
            self._ciphers.pop(number, None)
        self._slots.wipe(slot)
        return True

    def _discard(self, nonces: Iterable[bytes]) -> None:
        for nonce in nonces:
            if (slot := self._kept.pop(nonce, None)) is not None:
                self._slots.wipe(slot)

    def _rewrapped(self, master: AESGCM) -> bytes:
        """The file's content under another master key."""
        image = bytearray(self._slots.image)
        for slot in [*self._sessions.slots.values(), *self._groups.slots.values()]:
            record = self._slots.record(slot)
            key = record.unwrap(self._master) if record else None
            content = wrap(master, *record[:3], key).encode(slot) if record and key else FREE
            image[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = content
        return _with_header(image, master, self._names)


def rotate(path: Path, old_master: bytes, new_master: bytes, files: Files) -> None:
    """Put the keyring under a new master key, while nobody has it open. A crash leaves it whole,
    under the old one or the new one. What was written of it before stays readable to who has the
    old master key: destroy that.

    Raises as ``Keyring.open``, and OSError when the new file could not be put in place.
    """
    under = _master(new_master)
    keyring = Keyring.open(path, old_master, files)
    try:
        image = keyring._rewrapped(under)
    finally:
        keyring.close()
    files.close(write_whole(path, image, files))


class _Kind(IntEnum):
    HEADER = 1
    SESSION = 2
    GROUP = 3
    KEPT = 4


@dataclass(slots=True)
class _Keys:
    """Keys of one kind."""

    kind: _Kind
    limit: int
    numbers: dict[bytes, int] = field(default_factory=dict)
    """By digest, the one asked for longest ago first."""
    slots: dict[int, int] = field(default_factory=dict)
    """By number."""


def _master(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a master key has {KEY_BYTES} bytes")
    return AESGCM(key)


def _with_header(image: bytes | bytearray, master: AESGCM, names: bytes) -> bytes:
    """``image`` with both headers."""
    whole = bytearray(image)
    header = wrap(master, _MAGIC, VERSION, _Kind.HEADER, names)
    for slot in HEADER_SLOTS:
        whole[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = header.encode(slot)
    return bytes(whole)


def _names_key(slots: Slots, master: AESGCM, path: Path) -> bytes:
    """What the headers wrap; a damaged one is written anew from the other."""
    headers = [record for slot in HEADER_SLOTS if (record := slots.record(slot))]
    headers = [header for header in headers if header.name == _MAGIC]
    if not headers:
        raise StoreUnusable(
            f"{path} is not a keyring, or is damaged: remove it, and what is stored is forgotten"
        )
    if (version := max(header.number for header in headers)) != VERSION:
        raise StoreUnusable(
            f"{path} has format {version}, this program reads {VERSION}: "
            "use the newer program, or remove the file, and what is stored is forgotten"
        )
    for header in headers:
        if names := header.unwrap(master):
            for slot in HEADER_SLOTS:
                if slots.record(slot) != header:
                    slots.put(slot, header.encode(slot))
            return names
    raise WrongMasterKey(
        f"{path} was made with another master key: configure that one, "
        "or remove the file, and what is stored is forgotten"
    )
