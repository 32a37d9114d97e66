"""The store of one installation: where it is, who may read it, what it may take and write.

The engine opens it to work with, the command line to look at; both through here.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.ssd.allowance import Allowance, saved_state
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import Files, OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.master_key import MasterKeyError, MasterKeySource, create_key_file
from cache_tiers.ssd.neighbours import BUDGET, KEYRING, MANIFESTS
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.store import SsdStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Sizes in bytes."""

    root: Path
    bytes_limit: int
    free_floor: int = 0
    master_key: str | None = None
    """Where the master key comes from (see ``MasterKeySource``); None stores in the clear."""
    bytes_per_day: int | None = None
    """Of writing; None for as many as come."""
    compress: bool = False
    read_bytes_per_s: int | None = None
    """None for as fast as the disk gives them."""

    @property
    def keyring(self) -> Path:
        return self.root / KEYRING

    def manifests(self, fingerprint: str) -> Path:
        """Where the sessions' chains are."""
        return self.root / fingerprint / MANIFESTS

    def to_builtins(self) -> dict[str, Any]:
        """For another process, not for logs: a command in ``master_key`` may hold a secret."""
        return {**asdict(self), "root": str(self.root)}

    @classmethod
    def from_builtins(cls, values: Mapping[str, Any]) -> "Installation":
        """What ``to_builtins`` gave."""
        return cls(**{**values, "root": Path(values["root"])})


def master_key(
    installation: Installation, environ: Mapping[str, str], *, may_make: bool = True
) -> bytes | None:
    """The master key's 32 bytes; None when the store is not encrypted. A key file that is not
    there is made if that is allowed, unless there is a keyring that only the lost one would open.
    Raises MasterKeyError."""
    if installation.master_key is None:
        return None
    try:
        source = MasterKeySource.parse(installation.master_key)
    except ValueError as error:
        raise MasterKeyError(str(error)) from None
    path = source.path
    if path is not None and may_make and not path.exists():
        if installation.keyring.exists():
            raise MasterKeyError(
                f"the master key {path} is gone, and {installation.keyring} needs it: bring it "
                f"back, or remove {installation.root}, and what is stored is forgotten"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            create_key_file(path)
    return source.read(environ)


def check_master_key(installation: Installation, environ: Mapping[str, str]) -> None:
    """Fail now and clearly rather than when the engine has started. Raises StoreUnusable."""
    key = master_key(installation, environ)
    if key is not None and installation.keyring.exists():
        Keyring.open(installation.keyring, key, OsFiles(), read_only=True).close()


def open_store(
    installation: Installation,
    fingerprint: str,
    chunk_bytes: int,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
    files: Files | None = None,
    read_only: bool = False,
) -> SsdStore:
    """The installation's store for chunks of one fingerprint. Raises StoreUnusable."""
    files = files or OsFiles()
    key = master_key(installation, environ, may_make=not read_only)

    def make_sealer() -> Sealer:
        if key is None:
            return ClearSealer()
        return EncryptedSealer(Keyring.open(installation.keyring, key, files, read_only=read_only))

    config = SsdConfig(
        root=installation.root,
        fingerprint=fingerprint,
        chunk_bytes=chunk_bytes,
        bytes_limit=installation.bytes_limit,
        free_floor=installation.free_floor,
        compress=installation.compress,
        read_bytes_per_s=installation.read_bytes_per_s or math.inf,
    )
    return SsdStore.open(
        config,
        clock,
        files=files,
        make_sealer=make_sealer,
        make_allowance=_allowance(installation, files, clock),
        read_only=read_only,
    )


def _allowance(
    installation: Installation, files: Files, clock: Callable[[], float]
) -> Callable[[], Allowance] | None:
    per_day = installation.bytes_per_day
    if per_day is None:
        return None
    path = installation.root / BUDGET

    def make() -> Allowance:
        budget = WriteBudget(per_day, clock, saved_state(path, files))
        return Allowance(path, files, budget)

    return make
