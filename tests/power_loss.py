"""Files of a machine that loses power, or of a process that is killed. See ``tests.medium`` for
what may be lost."""

import errno
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_tiers.ssd.files import Entry, OsFiles
from tests.medium import (
    SECTOR_BYTES,
    Change,
    Folder,
    SectorFile,
    load,
    newest,
    set_name,
    some_of,
    with_earlier,
    write_image,
)


class PowerCut(BaseException):
    """The process ends here. No code may handle it: there is no process to run that code."""


class LossyFiles(OsFiles):
    """``OsFiles`` under ``root`` that remembers what is not durable yet. Thread safe.

    What is under ``root`` at the beginning is durable; all that changes it must come through here.
    Nothing is really synced: no test waits for the disk.
    """

    def __init__(self, root: Path) -> None:
        self.calls = 0
        """Mutating calls so far: those that could change what a restart finds."""
        self.off = False
        """The cut has happened: every call but ``close`` raises PowerCut."""
        self._root = root
        self._top = load(root) if root.exists() else Folder()
        self._changes: list[Change] = []
        self._opened: dict[int, SectorFile] = {}
        self._last_call: int | None = None
        self._part = 0.0
        self._lock = threading.RLock()

    def stop_after(self, calls: int, part: float = 0.0) -> None:
        """Raise PowerCut at the mutating call that comes as number ``calls`` (1: the next), and at
        every call after it. Of that call the share ``part`` has happened: of a write that many of
        its bytes, in whole sectors; anything else happens only when ``part`` is 1."""
        with self._lock:
            self._last_call = self.calls + calls
            self._part = part

    def crash_image(self, seed: int, target: Path) -> None:
        """Fill the folder ``target`` (made if need be) with what a loss of power at this moment
        may leave of ``root``: one of the possible states, always the same for a ``seed``."""
        chance = random.Random(seed)
        with self._lock:
            happened = some_of(chance)
            kept = [change for change in self._changes if happened((False, True))]
            kept = with_earlier(self._changes, kept)
            write_image(target, self._top, kept, lambda: some_of(chance))

    def kill_image(self, target: Path) -> None:
        """As ``crash_image``, of SIGKILL: nothing that was done is lost."""
        with self._lock:
            write_image(target, self._top, self._changes, lambda: newest)

    def close_all(self) -> None:
        """Close every descriptor, as the end of a process does."""
        with self._lock:
            self.off = True
            for file in list(self._opened):
                self.close(file)

    def make_folder(self, path: Path) -> None:
        with self._call():
            super().make_folder(path)
            folder: Any = self._top
            for name in path.relative_to(self._root).parts:
                if name not in folder.names:
                    self._change((folder, name, Folder()))
                folder = folder.names[name]

    def entries(self, path: Path) -> list[Entry]:
        self._alive()
        return super().entries(path)

    def lock(self, path: Path) -> int:
        with self._call():
            return self._remember(super().lock(path), path)

    def create(self, path: Path) -> int:
        with self._call():
            return self._remember(super().create(path), path)

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        with self._lock:
            self._alive()
            return self._remember(super().open(path, writable=writable, direct=direct), path)

    def size(self, file: int) -> int:
        self._alive()
        return super().size(file)

    def read(self, file: int, into: Sequence[memoryview], offset: int) -> int:
        self._alive()
        return super().read(file, into, offset)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        whole = b"".join(data)
        with self._call(divisible=True) as part:
            if part == 1:
                written = super().write(file, data, offset)
            else:
                end = (offset + int(len(whole) * part)) // SECTOR_BYTES * SECTOR_BYTES
                written = max(0, end - offset)
            if written:
                self._file(file).write(whole[:written], offset)
            return written

    def truncate(self, file: int, size: int) -> None:
        with self._call():
            super().truncate(file, size)
            self._file(file).truncate(size)

    def allocate(self, file: int, size: int) -> None:
        with self._call():
            super().allocate(file, size)
            self._file(file).grow(size)

    def sync(self, file: int) -> None:
        with self._call():
            self._file(file).sync()

    def close(self, file: int) -> None:
        with self._lock:
            if file in self._opened:
                del self._opened[file]
                super().close(file)
            elif not self.off:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def sync_folder(self, path: Path) -> None:
        with self._call():
            path.stat()
            folder = self._folder(path)
            asked = [c for c in self._changes if any(f is folder for f, _ in c.places)]
            for change in with_earlier(self._changes, asked):
                self._changes.remove(change)
                for holder, name, node in change.names:
                    set_name(holder.durable, name, node)

    def set_modified(self, path: Path, at: float) -> None:
        with self._call():
            super().set_modified(path, at)
            folder, name = self._place(path)
            node = folder.names[name]
            if isinstance(node, SectorFile):
                node.modified_at = at

    def replace(self, source: Path, target: Path) -> None:
        with self._call():
            super().replace(source, target)
            folder, name = self._place(source)
            self._change((folder, name, None), (*self._place(target), folder.names[name]))

    def remove(self, path: Path) -> None:
        with self._call():
            super().remove(path)
            self._change((*self._place(path), None))

    def remove_folder(self, path: Path) -> None:
        with self._call():
            super().remove_folder(path)
            folder = self._folder(path)
            # What was in it has left it before.
            inside = [(folder, name, None) for name in folder.durable]
            self._change((*self._place(path), None), *inside)

    def free_bytes(self, path: Path) -> int:
        self._alive()
        return super().free_bytes(path)

    def _alive(self) -> None:
        if self.off:
            raise PowerCut

    @contextmanager
    def _call(self, divisible: bool = False) -> Iterator[float]:
        """One mutating call; yields how much of it happens."""
        with self._lock:
            self._alive()
            self.calls += 1
            self.off = self.calls == self._last_call
            part = self._part if self.off else 1.0
            if part < 1 and not divisible:
                raise PowerCut
            yield part
            self._alive()

    def _remember(self, file: int, path: Path) -> int:
        folder, name = self._place(path)
        if name not in folder.names:
            self._change((folder, name, SectorFile()))
        node = folder.names[name]
        assert isinstance(node, SectorFile)
        self._opened[file] = node
        return file

    def _file(self, file: int) -> SectorFile:
        if file not in self._opened:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._opened[file]

    def _folder(self, path: Path) -> Folder:
        folder: Folder | SectorFile = self._top
        for name in path.relative_to(self._root).parts:
            assert isinstance(folder, Folder)
            folder = folder.names[name]
        assert isinstance(folder, Folder)
        return folder

    def _place(self, path: Path) -> tuple[Folder, str]:
        return self._folder(path.parent), path.name

    def _change(self, *names: tuple[Folder, str, SectorFile | Folder | None]) -> None:
        self._changes.append(Change(names))
        for folder, name, node in names:
            set_name(folder.names, name, node)
