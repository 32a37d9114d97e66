"""Names in /dev/shm: given so that what a killed server left there can be told and removed.

The DRAM region loses its name as soon as every process has mapped it (``core_plugin/spec.py``); a
server killed before that moment leaves a file behind, which the next start removes.
"""

import contextlib
import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "vllm_offload_"


def region_id() -> str:
    """A name for this process's DRAM region that says whose it is."""
    return f"valet-{os.getpid()}-{_started_at(os.getpid())}"


def sweep_leftovers(folder: Path = SHARED_MEMORY) -> list[Path]:
    """Remove regions whose server is gone; returns what was removed."""
    removed = []
    for path in folder.glob(f"{_PREFIX}valet-*"):
        parts = path.name.removeprefix(_PREFIX).removesuffix(".mmap").split("-")
        if len(parts) < 3 or not parts[1].isdigit():
            continue
        if parts[2] == _started_at(int(parts[1])):
            continue
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _started_at(pid: int) -> str:
    """The kernel's start time of a process in clock ticks; empty when there is none. With it, a
    process number that was given again is not taken for the old process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
