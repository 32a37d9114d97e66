"""What a server's processes have in /dev/shm, told from what other programs have there."""

from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")


def mapped(processes: list[psutil.Process]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped and that still have a name."""
    found = set()
    for process in processes:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        names = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/dev/shm/" in line}
        found |= {Path(name) for name in names if not name.endswith(" (deleted)")}
    return {file for file in found if file.exists()}


def regions(pid: int) -> list[Path]:
    """DRAM regions that the server with this process number left behind."""
    return list(SHARED_MEMORY.glob(f"*valet-{pid}-*"))
