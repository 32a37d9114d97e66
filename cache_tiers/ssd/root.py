"""The folder that everything of a store is under."""

import contextlib
from pathlib import Path

from cache_tiers.ssd.files import Files
from cache_tiers.ssd.neighbours import LOCK


class Root:
    """The folder of a store, ours alone while it is locked. Methods may raise OSError."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.files = files
        self._lock: int | None = None

    def take(self) -> None:
        """Make the folder if need be, and lock it; BlockingIOError when somebody else has it."""
        self.release()
        self.files.make_folder(self.path)
        # A folder above that we may not read is for who made ours in it to keep.
        with contextlib.suppress(PermissionError):
            self.files.sync_folder(self.path.parent)
        self._lock = self.files.lock(self.path / LOCK)

    def release(self) -> None:
        """Let another process have it. Idempotent."""
        if self._lock is not None:
            self.files.close(self._lock)
            self._lock = None
