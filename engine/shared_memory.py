"""What the engine's processes leave in /dev/shm when they are killed, and its removal.

The DRAM region loses its name as soon as every process has mapped it (``core_plugin/spec.py``).
Until then, and for what vLLM itself makes there (message queues, locks), a kill leaves files
behind. So a running server writes down the names that its processes have mapped, and the next
start removes those that no process maps any more.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
_REGION = re.compile(r"vllm_offload_valet-(\d+)-(\d+)\.mmap")


def region_id() -> str:
    """A name for this process's DRAM region that says whose it is."""
    return f"valet-{os.getpid()}-{_started_at(os.getpid())}"


def claim(record: Path) -> None:
    """Write to ``record`` the names in /dev/shm that this process and its children have mapped."""
    me = psutil.Process()
    mapped = _mapped([me.pid, *(child.pid for child in me.children(recursive=True))])
    record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    record.write_text("\n".join(sorted(mapped)))


def sweep(record: Path, folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove what a server that is gone left in ``folder``: names in ``record`` that no process
    maps, and DRAM regions whose owner does not run. Returns the names removed."""
    names: set[str] = set()
    with contextlib.suppress(OSError):
        names = set(record.read_text().split())
    mapped = names & _mapped(psutil.pids()) if names else set()
    names -= mapped
    for path in folder.iterdir():
        owner = _REGION.fullmatch(path.name)
        if owner is not None and owner[2] != _started_at(int(owner[1])):
            names.add(path.name)
    removed = [name for name in sorted(names) if "/" not in name and _remove(folder / name)]
    if removed:
        logger.info("removed %d leftovers of a killed server from %s", len(removed), folder)
    if mapped:
        record.write_text("\n".join(sorted(mapped)))  # of a server that runs on the same home
    else:
        record.unlink(missing_ok=True)
    return removed


def _mapped(pids: Iterable[int]) -> set[str]:
    prefix = f"{SHARED_MEMORY}/"
    names: set[str] = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        paths = (line.partition("/")[2] for line in lines)
        names.update(f"/{p}".removeprefix(prefix) for p in paths if f"/{p}".startswith(prefix))
    return {name for name in names if not name.endswith(" (deleted)")}


def _remove(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False


def _started_at(pid: int) -> str:
    """The kernel's start time of a process in clock ticks; empty when there is none. With it, a
    process number that was given again is not taken for the old process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
