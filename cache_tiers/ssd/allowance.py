"""The daily write budget of one store, kept over restarts."""

import math
import struct
from pathlib import Path

import xxhash

from cache_tiers.endurance.budget import BudgetState, WriteBudget
from cache_tiers.ssd.files import Files, opened, read_fully, write_fully

_STATE = struct.Struct("<8sdd")
_CHECK_BYTES = 8
_MAGIC = b"VALETBUD"
_AHEAD_BYTES = 256 * 2**20
"""Charged on the medium before it is spent: so much budget a crash may cost, and so seldom the file
is written."""


class Allowance:
    """Called by one thread at a time. The file is one record with a checksum; a damaged one leaves
    an empty bucket, not a full one."""

    def __init__(self, path: Path, files: Files, budget: WriteBudget) -> None:
        self._path = path
        self._files = files
        self.budget = budget
        self._ahead = min(_AHEAD_BYTES, budget.bytes_per_day // 16)
        self._saved_ahead = 0
        """What may be spent until the file has to be written again."""

    def affords(self, size: int) -> bool:
        """Whether ``size`` bytes may be written now."""
        return size <= self.budget.level

    def charge(self, size: int) -> None:
        """``size`` bytes that it affords are about to be written. May raise OSError: then nothing
        may."""
        if self.budget.unsaved + size > self._saved_ahead:
            self._save(max(self._ahead, size))
        self.budget.take(size)

    def close(self) -> None:
        """Give back what was charged ahead. May raise OSError."""
        self._save(0)

    def _save(self, ahead: int) -> None:
        self._saved_ahead = 0
        state = self.budget.state(ahead)
        fields = _STATE.pack(_MAGIC, state.level, state.at)
        data = fields + _check(fields)
        try:
            file = self._files.open(self._path, writable=True)
        except FileNotFoundError:
            file = self._files.create(self._path)
            self._files.sync_folder(self._path.parent)
        try:
            write_fully(self._files, file, [memoryview(data)], 0)
            self._files.sync(file)
        finally:
            self._files.close(file)
        self._saved_ahead = ahead


class Unlimited:
    """What a store without a budget may write: see ``Allowance``."""

    budget: WriteBudget | None = None

    def affords(self, _: int) -> bool:
        return True

    def charge(self, _: int) -> None:
        return

    def close(self) -> None:
        return


def saved_state(path: Path, files: Files) -> BudgetState | None:
    """What a former process left; None when there was none. Raises OSError."""
    buffer = bytearray(_STATE.size + _CHECK_BYTES)
    try:
        with opened(files, path, writable=False) as file:
            read_fully(files, file, [memoryview(buffer)], 0)
    except FileNotFoundError:
        return None
    if not any(buffer):
        # Made and never written: nothing has been granted on the strength of it.
        return None
    fields = bytes(buffer[: _STATE.size])
    magic, level, at = _STATE.unpack(fields)
    if magic != _MAGIC or buffer[_STATE.size :] != _check(fields):
        return BudgetState(0.0, math.nan)
    return BudgetState(level, at)


def _check(fields: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(fields).to_bytes(_CHECK_BYTES, "little")
