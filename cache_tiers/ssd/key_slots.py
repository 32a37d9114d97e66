"""A file of records, each a key wrapped by another key, in slots that are written in place.

A slot has 128 bytes, so that none crosses a sector and a loss of power leaves its old content or
its new one. A slot of zeros is free. A checksum, seeded with the slot, finds damage without a key.
"""

import os
import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import xxhash
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cache_tiers.ssd.files import Files, opened, read_fully, write_fully

SLOT_BYTES = 128
STEP = 512
"""Slots the file grows by."""
HEADER_SLOTS = (0, 32)
"""In two pages: one damaged page does not take every key with it."""
_MAX_FILE_BYTES = 2**28
"""More than is ever written; what is behind it is not read."""
_CLOSED = -1
FREE = bytes(SLOT_BYTES)
_FIELDS = struct.Struct("<32sQB7x12s48s12x")
_ABOUT = struct.Struct("<32sQB")


class Record(NamedTuple):
    """See ``Keyring`` for what the fields are for."""

    name: bytes
    number: int
    kind: int
    nonce: bytes
    wrapped: bytes

    def encode(self, slot: int) -> bytes:
        """What stands in ``slot``."""
        fields = _FIELDS.pack(*self)
        return fields + _checksum(fields, slot)

    def unwrap(self, under: AESGCM) -> bytes | None:
        """The key; None when ``under`` did not wrap it, or not in this record."""
        try:
            return under.decrypt(self.nonce, self.wrapped, _ABOUT.pack(*self[:3]))
        except InvalidTag:
            return None


def wrap(under: AESGCM, name: bytes, number: int, kind: int, key: bytes) -> Record:
    """A record that holds ``key`` (32 bytes) under another, whose every use has a new nonce."""
    nonce = os.urandom(12)
    wrapped = under.encrypt(nonce, key, _ABOUT.pack(name, number, kind))
    return Record(name, number, kind, nonce, wrapped)


def _checksum(fields: bytes | bytearray, slot: int) -> bytes:
    return xxhash.xxh3_64_intdigest(fields, slot).to_bytes(8, "little")


class Slots:
    """The file as it is to be, in memory, and what of it the medium does not have yet. ``record``
    is for any thread, the rest for one at a time; methods may raise OSError."""

    def __init__(self, files: Files, file: int, path: Path, read_only: bool) -> None:
        self._files = files
        self._file = file
        self._path = path
        self._read_only = read_only
        self._removed = False
        """The descriptor is of a file that has no name any more."""
        self.image = bytearray(min(files.size(file), _MAX_FILE_BYTES))
        with memoryview(self.image) as view:
            size = read_fully(files, file, [view], 0)
        del self.image[size - size % SLOT_BYTES :]
        self._free: list[int] = []
        self._dirty: set[int] = set()
        self.damaged = 0

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every whole record but the headers, for one pass. What is neither a record nor free is
        wiped: there may be a key in it that will be thought destroyed."""
        for slot in range(len(self.image) // SLOT_BYTES - 1, -1, -1):
            if slot in HEADER_SLOTS:
                continue
            if record := self.record(slot):
                yield slot, record
            elif self._raw(slot) == FREE:
                self._free.append(slot)
            else:
                self.wipe(slot)
                self.damaged += 1

    def record(self, slot: int) -> Record | None:
        """None for a slot without a whole record. Any thread."""
        raw = self._raw(slot)
        if raw[_FIELDS.size :] != _checksum(raw[: _FIELDS.size], slot):
            return None
        return Record._make(_FIELDS.unpack_from(raw))

    def put(self, slot: int, content: bytes) -> None:
        """Give a slot new content."""
        self.image[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = content
        self._dirty.add(slot)

    def add(self, record: Record) -> int:
        """Put ``record`` into a free slot. OSError when the file cannot grow."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self.put(slot, record.encode(slot))
        return slot

    def wipe(self, slot: int) -> None:
        """Overwrite a record; its slot is free."""
        self.put(slot, FREE)
        self._free.append(slot)

    def sync(self) -> None:
        """Write what is new, durably; what could not be written stays for the next time."""
        if not self._dirty or self._read_only:
            return
        for _, run in groupby(enumerate(sorted(self._dirty)), lambda at: at[1] - at[0]):
            slots = [slot for _, slot in run]
            content = self.image[slots[0] * SLOT_BYTES : (slots[-1] + 1) * SLOT_BYTES]
            write_fully(self._files, self._file, [memoryview(content)], slots[0] * SLOT_BYTES)
        self._files.sync(self._file)
        self._dirty.clear()

    def revive(self) -> None:
        """Write the file anew, durably, if it was removed."""
        try:
            with opened(self._files, self._path, writable=False):
                there = not self._removed
        except FileNotFoundError:
            there = False
        if there or self._read_only:
            return
        self._removed = True
        erase_draft(self._path, self._files)
        gone, self._file = self._file, write_whole(self._path, bytes(self.image), self._files)
        self._removed = False
        self._files.close(gone)

    def close(self) -> None:
        """Sync and close. Idempotent."""
        if self._file == _CLOSED:
            return
        try:
            self.sync()
        finally:
            file, self._file = self._file, _CLOSED
            self._files.close(file)

    def _raw(self, slot: int) -> bytearray:
        return self.image[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]

    def _grow(self) -> None:
        """Written at once, not by ``sync``: a full disk must not stand in the way of wiping."""
        zeros = bytes(STEP * SLOT_BYTES)
        write_fully(self._files, self._file, [memoryview(zeros)], len(self.image))
        first = len(self.image) // SLOT_BYTES
        self.image += zeros
        fresh = range(first + STEP - 1, first - 1, -1)
        self._free.extend(slot for slot in fresh if slot not in HEADER_SLOTS)


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def write_whole(path: Path, content: bytes, files: Files) -> int:
    """Write a whole file beside ``path`` and put it in its place, durably. The open file."""
    draft = _draft(path)
    file = files.create(draft)
    try:
        write_fully(files, file, [memoryview(content)], 0)
        files.sync(file)
        files.replace(draft, path)
        files.sync_folder(path.parent)
    except BaseException:
        files.close(file)
        raise
    return file


def erase_draft(path: Path, files: Files) -> None:
    """Remove what a crash left, overwritten: a forgotten copy of a key is not destroyed with it."""
    draft = _draft(path)
    try:
        with opened(files, draft, writable=True) as file:
            zeros = bytes(min(files.size(file), _MAX_FILE_BYTES))
            write_fully(files, file, [memoryview(zeros)], 0)
            files.sync(file)
    except FileNotFoundError:
        return
    files.remove(draft)
    files.sync_folder(path.parent)
