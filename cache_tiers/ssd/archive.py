"""One session as a file: encrypted, authenticated as a whole, written and read as a stream.

::

    magic (8) · length (u32) · header (msgpack) · nonce (12) · wrapped file key (48)
    then 1 + chunks + 1 records: length (u32) · AES-256-GCM ciphertext and tag

Record 0 says whose chunks these are, then comes one record a chunk (its key and, unless the store
did not have them, its bytes), and an empty one closes the file. Little-endian. Each file has a key
of its own, which encrypts record ``i`` under the nonce ``i`` and authenticates with it the digest
of all that is before the records, ``i`` and the number of records. So nothing can be changed, left
out, put elsewhere or taken over from another file unnoticed.

Errors::

    ArchiveError    the message is one line and says what is wrong with the file
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cache_tiers.ssd.files import Files, read_fully, write_fully
from cache_tiers.ssd.journal import MOST_KEY_BYTES
from cache_tiers.types import ChunkKey

VERSION = 1
MAGIC = b"VALETKV\x01"
MOST_CHUNKS = 2**24
MOST_CHUNK_BYTES = 2**30
_MOST_HEADER_BYTES = 4096
_MOST_ABOUT_BYTES = 64 * 2**10
_MOST_SCRYPT_BYTES = 2**30
_LENGTH = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
_NONCE_BYTES = 12
_KEY_BYTES = 32
_TAG_BYTES = 16
_WRAPPED_BYTES = _KEY_BYTES + _TAG_BYTES


class ArchiveError(Exception):
    """The file cannot be used."""


class _Kind(StrEnum):
    PASSPHRASE = "passphrase"
    KEY = "key"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What opens a file: something a person remembers, or 32 random bytes."""

    kind: _Kind
    value: bytes

    @classmethod
    def passphrase(cls, text: str) -> "Secret":
        return cls(_Kind.PASSPHRASE, text.encode(errors="surrogateescape"))

    @classmethod
    def key(cls, key: bytes) -> "Secret":
        return cls(_Kind.KEY, key)


class Cost(msgspec.Struct, frozen=True, array_like=True):
    """Of guessing a passphrase, as scrypt has it: ``128 · n · r`` bytes of memory."""

    n: int = 2**17
    r: int = 8
    p: int = 1

    @property
    def bearable(self) -> bool:
        """Whether it can be computed at all, and by this machine in seconds."""
        fits = 1 <= self.r <= 64 and 1 <= self.p <= 16 and self.n > 1
        return fits and self.n & (self.n - 1) == 0 and 128 * self.n * self.r <= _MOST_SCRYPT_BYTES


class About(msgspec.Struct, frozen=True):
    """Whose chunks a file holds."""

    fingerprint: str
    chunk_bytes: int
    session: str
    """A ``SessionKey``."""
    origin: bytes
    """What both installations must have in common for the chunks' names to be of use."""
    row: dict[str, str | int]
    """What else is known of the session; nothing here looks at it."""


class _Header(msgspec.Struct, frozen=True):
    version: int
    file: bytes
    """Random: no two files have one name."""
    chunks: int
    kind: str
    salt: bytes
    cost: Cost


class ArchiveWriter:
    """One thread. Methods raise OSError."""

    def __init__(
        self,
        files: Files,
        file: int,
        secret: Secret,
        about: About,
        chunks: int,
        cost: Cost = Cost(),  # noqa: B008 - immutable
    ) -> None:
        """``file`` is empty; ``chunks`` will be added. Deriving the key takes a moment."""
        self._files = files
        self._file = file
        header = _Header(VERSION, os.urandom(16), chunks, secret.kind, os.urandom(32), cost)
        body = msgspec.msgpack.encode(header)
        head = MAGIC + _LENGTH.pack(len(body)) + body
        nonce, file_key = os.urandom(_NONCE_BYTES), os.urandom(_KEY_BYTES)
        head += nonce + _lock(secret, header).encrypt(nonce, file_key, head)
        self._records = _Records(file_key, head, chunks)
        self._about = about
        self._next = 0
        self._end = 0
        self._write(head)
        self._add(msgspec.msgpack.encode(about))

    def add(self, key: ChunkKey, chunk: bytes | memoryview) -> None:
        """The chain's next chunk; an empty one stands for bytes that are not to be had."""
        self._add(bytes([len(key)]) + key + chunk)

    def close(self) -> None:
        """Complete the file; durable on return. Raises ValueError when chunks are missing."""
        if self._next != self._records.last:
            raise ValueError("an archive is closed when all its chunks are in it")
        self._add(b"")
        self._files.sync(self._file)

    def _add(self, plain: bytes) -> None:
        sealed = self._records.seal(self._next, plain)
        self._next += 1
        self._write(_LENGTH.pack(len(sealed)), sealed)

    def _write(self, *parts: bytes) -> None:
        write_fully(self._files, self._file, [memoryview(part) for part in parts], self._end)
        self._end += sum(map(len, parts))


class ArchiveReader:
    """One thread. Methods raise ArchiveError, and OSError."""

    def __init__(self, files: Files, file: int, secret: Secret) -> None:
        """Reads the beginning of ``file``. Deriving the key takes a moment."""
        self._files = files
        self._file = file
        self._end = 0
        head = self._read(len(MAGIC) + _LENGTH.size)
        size = _LENGTH.unpack(head[len(MAGIC) :])[0]
        if head[: len(MAGIC)] != MAGIC or size > _MOST_HEADER_BYTES:
            raise ArchiveError("it is not an exported session, or of a newer version")
        head += self._read(size)
        header = _header(head[-size:])
        if header.kind != secret.kind:
            raise ArchiveError(f"it was exported with a {header.kind}, not with a {secret.kind}")
        nonce, wrapped = self._read(_NONCE_BYTES), self._read(_WRAPPED_BYTES)
        try:
            file_key = _lock(secret, header).decrypt(nonce, wrapped, head)
        except InvalidTag:
            raise ArchiveError(f"the {header.kind} is another, or the file was changed") from None
        self._records = _Records(file_key, head + nonce + wrapped, header.chunks)
        self.chunks = header.chunks
        self.about = self._read_about()
        self._first = self._end

    def read(self) -> Iterator[tuple[ChunkKey, memoryview]]:
        """The chain from its first chunk on; bytes that were not to be had are empty. Only when
        this ends, and does not raise, is the file known to be whole. May be called again."""
        self._end = self._first
        for index in range(1, self._records.last):
            plain = memoryview(self._open(index, 1 + MOST_KEY_BYTES + self.about.chunk_bytes))
            size = 1 + plain[0] if len(plain) else 0
            key, chunk = ChunkKey(bytes(plain[1:size])), plain[size:]
            if not 0 < len(key) <= MOST_KEY_BYTES or len(chunk) not in (0, self.about.chunk_bytes):
                raise _damaged(index)
            yield key, chunk
        if self._open(self._records.last, 0) or self._files.size(self._file) != self._end:
            raise ArchiveError("there is something behind its end")

    def _read_about(self) -> About:
        try:
            about = msgspec.msgpack.decode(self._open(0, _MOST_ABOUT_BYTES), type=About)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _damaged(0) from None
        if not 0 < about.chunk_bytes <= MOST_CHUNK_BYTES:
            raise _damaged(0)
        return about

    def _open(self, index: int, most: int) -> bytes:
        length = _LENGTH.unpack(self._read(_LENGTH.size))[0]
        if length > most + _TAG_BYTES:
            raise _damaged(index)
        try:
            return self._records.open(index, self._read(length))
        except InvalidTag:
            raise _damaged(index) from None

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        if read_fully(self._files, self._file, [memoryview(buffer)], self._end) < size:
            raise ArchiveError("it was cut short")
        self._end += size
        return bytes(buffer)


class _Records:
    """How the records of one file are encrypted."""

    def __init__(self, file_key: bytes, head: bytes, chunks: int) -> None:
        self.last = chunks + 1
        """The closing one's index."""
        self._cipher = AESGCM(file_key)
        self._digest = hashlib.sha256(head).digest()

    def seal(self, index: int, plain: bytes) -> bytes:
        return self._cipher.encrypt(_nonce(index), plain, self._about(index))

    def open(self, index: int, sealed: bytes) -> bytes:
        return self._cipher.decrypt(_nonce(index), sealed, self._about(index))

    def _about(self, index: int) -> bytes:
        return self._digest + _PLACE.pack(index, self.last)


def _nonce(index: int) -> bytes:
    """Never twice under one key: the key is one file's."""
    return index.to_bytes(_NONCE_BYTES, "little")


def _header(body: bytes) -> _Header:
    try:
        header = msgspec.msgpack.decode(body, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ArchiveError("its beginning is damaged") from None
    if header.version > VERSION:
        raise ArchiveError(
            f"it has format {header.version}, this program reads {VERSION}: use the newer program"
        )
    if not 0 <= header.chunks <= MOST_CHUNKS or not header.cost.bearable:
        raise ArchiveError("its beginning is damaged")
    return header


def _lock(secret: Secret, header: _Header) -> AESGCM:
    """What wraps the file's key."""
    if secret.kind is _Kind.KEY:
        return AESGCM(hmac.digest(secret.value, b"valet archive\0" + header.salt, "sha256"))
    cost = header.cost
    scrypt = Scrypt(salt=header.salt, length=_KEY_BYTES, n=cost.n, r=cost.r, p=cost.p)
    return AESGCM(scrypt.derive(secret.value))


def _damaged(index: int) -> ArchiveError:
    return ArchiveError(f"record {index} is damaged, or not where it was")
