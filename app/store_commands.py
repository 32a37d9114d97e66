"""``valet store verify | compact | rotate-key``: looking after the SSD store.

Each prints what it has to say and returns the process's exit code. Verifying may go on beside a
server, the others need the store to themselves.

Errors::

    CommandFailed    the command cannot be carried out; the message is one line
"""

import sys
import time
from collections.abc import Callable, Mapping

from app.settings import Settings
from cache_tiers.ssd import keyring
from cache_tiers.ssd.catalogue import Holding, holdings
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.installation import Installation, master_key, open_store
from cache_tiers.ssd.master_key import MasterKeySource, create_key_file
from cache_tiers.ssd.pace import Pace
from cache_tiers.ssd.root import Root
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.verify import Verified, verify
from cache_tiers.store import StoreUnusable

_FILES = OsFiles()
_PROGRESS_S = 0.5


class CommandFailed(Exception):
    """The command cannot be carried out."""


def run_verify(
    settings: Settings,
    environ: Mapping[str, str],
    bytes_per_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Read and authenticate everything. 1 when something is not as it was written."""
    found = holdings(settings.store_dir, _FILES)
    pace = Pace(bytes_per_s, clock, sleep)
    if not found:
        print(f"nothing is stored in {settings.store_dir}")
        return 0
    open_sealer = sealers(settings.installation, environ)
    sound = True
    for holding in found:
        progress = _Progress(holding, clock)
        said = verify(holding, _FILES, open_sealer, pace, progress.show)
        progress.end()
        sound &= said.sound
        print(
            f"{holding.fingerprint}: {said.good} chunks good, {said.corrupt} corrupt, "
            f"{said.failed} not readable, {said.locked} whose key is gone; "
            f"{said.damaged_journals} journals damaged; {size_text(said.bytes)} read"
        )
    return 0 if sound else 1


def run_compact(settings: Settings, environ: Mapping[str, str]) -> int:
    """Rewrite what is of use in segments that hold much else. 0."""
    freed = 0
    # The one used last first: opening another could evict it to make room, but not the reverse.
    for holding in holdings(settings.store_dir, _FILES):
        if holding.chunk_bytes is None:
            continue
        store = open_store(
            settings.installation, holding.fingerprint, holding.chunk_bytes, environ=environ
        )
        try:
            freed += store.compact()
        finally:
            store.close()
    print(f"{size_text(freed)} given back")
    return 0


def rotate_key(settings: Settings, environ: Mapping[str, str], to: str) -> int:
    """Put the keyring under the master key that ``to`` gives: a file that is not there is made.
    0."""
    installation = settings.installation
    if installation.master_key is None:
        raise CommandFailed("the store is not encrypted: VALET_ENCRYPTION is off")
    try:
        source = MasterKeySource.parse(to)
    except ValueError as error:
        raise CommandFailed(f"--to: {error}") from None
    old = _existing_key(installation, environ)
    root = Root(installation.root, _FILES)
    try:
        root.take()
    except BlockingIOError:
        raise CommandFailed(f"{installation.root} is in use: stop the server first") from None
    try:
        if source.path is not None and not source.path.exists():
            create_key_file(source.path)
        new = source.read(environ)
        if new == old:
            raise CommandFailed(f"{source} gives the master key that is in use")
        keyring.rotate(installation.keyring, old, new, _FILES)
    finally:
        root.release()
    print("The keyring is under the new master key; no data was rewritten.")
    print(f"Now set VALET_MASTER_KEY to what you gave as --to ({source}), start the server,")
    print("and then destroy the old key: it opens old copies of the keyring.")
    return 0


def sealers(installation: Installation, environ: Mapping[str, str]) -> Callable[[], Sealer]:
    """What opens chunks with the keys as they are when it is called; changes nothing. Raises
    StoreUnusable."""
    if installation.master_key is None:
        return ClearSealer
    key = _existing_key(installation, environ)

    def open_sealer() -> Sealer:
        ring = keyring.Keyring.open(installation.keyring, key, _FILES, read_only=True)
        return EncryptedSealer(ring)

    return open_sealer


def size_text(size: int) -> str:
    """Bytes for people: ``3.2GiB``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    value = float(size)
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{size}B" if units[0] == "B" else f"{value:.1f}{units[0]}"


def _existing_key(installation: Installation, environ: Mapping[str, str]) -> bytes:
    """The master key of a keyring that is there: none is made."""
    if not installation.keyring.exists():
        raise StoreUnusable(
            f"there is no keyring {installation.keyring}: nothing was stored encrypted"
        )
    key = master_key(installation, environ)
    assert key is not None
    return key


class _Progress:
    """One line that is written over, on a terminal only."""

    def __init__(self, holding: Holding, clock: Callable[[], float]) -> None:
        self._holding = holding
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._shown_at: float | None = None

    def show(self, said: Verified) -> None:
        now = self._clock()
        if self._terminal and now >= (self._shown_at or 0.0) + _PROGRESS_S:
            self._shown_at = now
            done = f"{size_text(said.bytes)} of {size_text(self._holding.data_bytes)} read"
            print(f"\r{done}, {said.corrupt} corrupt\033[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown_at is not None:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
