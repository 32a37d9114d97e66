"""How worn the drive under a folder is, where the drive says so.

Asked in this order, first answer wins: what the kernel itself shows of the drive (eMMC), SMART by
``smartctl`` (NVMe, SATA, SAS) when it is installed and permitted, what the filesystem counted.
Asking may take seconds: never on a thread that others wait for.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SMARTCTL_S = 5.0
"""How long ``smartctl`` may take: a drive that sleeps or hangs can keep it."""

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where it usually is; a service's PATH often leaves these out."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MOST_LAYERS = 8
_NVME_UNIT_BYTES = 512_000
"""Of a data unit: a thousand blocks of 512 bytes (NVM Express Base Specification, SMART log)."""
_MOST_PERCENT = 255
_LEFT = frozenset(
    {
        "Wear_Leveling_Count",
        "Media_Wearout_Indicator",
        "SSD_Life_Left",
        "Percent_Lifetime_Remain",
        "Remaining_Lifetime_Perc",
    }
)
"""SATA attributes whose normalized value is what is left, in percent."""
_WRITTEN = {
    "Total_LBAs_Written": 512,
    "Host_Writes_32MiB": 32 * 2**20,
    "Host_Writes_MiB": 2**20,
    "Host_Writes_GiB": 2**30,
    "Lifetime_Writes_GiB": 2**30,
    "Total_Writes_GiB": 2**30,
}
"""SATA attributes whose raw value is what was written, and its unit in bytes."""


@dataclass(frozen=True, slots=True)
class Wear:
    """What is known; None for what is not."""

    percent_used: int | None
    """Of the rated endurance; may pass 100."""
    bytes_written: int | None
    """By the host, in the drive's life; by ``filesystem``, in the filesystem's."""
    source: str
    """Who says so: ``sysfs``, ``nvme``, ``ata``, ``scsi`` or ``filesystem``."""


class Machine(Protocol):
    """What is asked of the operating system. Every method may raise OSError."""

    def device_of(self, path: Path) -> tuple[int, int]:
        """Major and minor number of the device that ``path`` is on."""
        ...

    def resolve(self, path: Path) -> Path:
        """Where a link in sysfs leads to; FileNotFoundError when it is not there."""
        ...

    def names(self, folder: Path) -> list[str]: ...

    def read(self, path: Path) -> str: ...

    def smartctl(self, device: Path) -> str | None:
        """What ``smartctl --json -A`` prints; None when it is not installed."""
        ...


class LocalMachine:
    """This one."""

    def device_of(self, path: Path) -> tuple[int, int]:
        device = path.stat().st_dev
        return os.major(device), os.minor(device)

    def resolve(self, path: Path) -> Path:
        return path.resolve(strict=True)

    def names(self, folder: Path) -> list[str]:
        return sorted(entry.name for entry in folder.iterdir())

    def read(self, path: Path) -> str:
        return path.read_text(encoding="ascii")

    def smartctl(self, device: Path) -> str | None:
        command = shutil.which("smartctl") or shutil.which("smartctl", path=_SBIN)
        if command is None:
            return None
        try:
            done = subprocess.run(
                [command, "--json", "-A", str(device)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SMARTCTL_S,
                check=False,  # Its exit status is a set of warnings; the answer may be whole.
            )
        except subprocess.SubprocessError as error:
            raise TimeoutError("smartctl did not answer") from error
        return done.stdout.decode("utf-8", "replace")


def read_wear(path: Path, machine: Machine | None = None) -> Wear | None:
    """Of the drive that ``path``, which must exist, is on. None when nothing is known. Raises
    nothing; may block for ``SMARTCTL_S``."""
    machine = machine or LocalMachine()
    try:
        volume = machine.resolve(Path("/sys/dev/block/{}:{}".format(*machine.device_of(path))))
        drive = _drive(machine, volume)
    except (OSError, ValueError):
        return None
    return _of_sysfs(machine, drive) or _of_smartctl(machine, drive) or _of_files(machine, volume)


def parse_smartctl(text: str) -> Wear | None:
    """Of ``smartctl``'s JSON, of an NVMe, SATA or SAS drive; None when it says nothing of wear."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for parse in (_nvme, _ata, _scsi):
        wear = parse(told)
        if wear.percent_used is not None or wear.bytes_written is not None:
            return wear
    return None


def _drive(machine: Machine, volume: Path) -> Path:
    """The sysfs folder of the whole drive: of a partition, its parent; of a volume upon one other
    (encrypted, logical), that other. A volume over several drives is left as it is."""
    for _ in range(_MOST_LAYERS):
        names = machine.names(volume)
        if "partition" in names:
            volume = volume.parent
            continue
        below = machine.names(volume / "slaves") if "slaves" in names else []
        if len(below) != 1:
            break
        volume = machine.resolve(volume / "slaves" / below[0])
    return volume


def _of_sysfs(machine: Machine, drive: Path) -> Wear | None:
    """eMMC says for each of two kinds of cells how many tenths of its life are used; 0x00 is
    unknown, 0x0b is more than all."""
    try:
        tenths = [int(word, 16) for word in machine.read(drive / "device/life_time").split()]
    except (OSError, ValueError):
        return None
    used = max(tenths, default=0) * 10
    return Wear(used, None, "sysfs") if 0 < used <= 110 else None


def _of_smartctl(machine: Machine, drive: Path) -> Wear | None:
    if not _NAME.fullmatch(drive.name):
        return None
    try:
        text = machine.smartctl(Path("/dev") / drive.name)
    except OSError:
        return None
    return None if text is None else parse_smartctl(text)


def _of_files(machine: Machine, volume: Path) -> Wear | None:
    """What ext4 and f2fs count over a filesystem's life."""
    for kind in ("ext4", "f2fs"):
        try:
            kib = int(machine.read(Path("/sys/fs") / kind / volume.name / "lifetime_write_kbytes"))
        except (OSError, ValueError):
            continue
        return Wear(None, kib * 1024, "filesystem")
    return None


def _nvme(told: Any) -> Wear:
    log = _at(told, "nvme_smart_health_information_log")
    units = _count(_at(log, "data_units_written"))
    written = None if units is None else units * _NVME_UNIT_BYTES
    return Wear(_percent(_at(log, "percentage_used")), written, "nvme")


def _ata(told: Any) -> Wear:
    percent = _percent(_at(told, "endurance_used", "current_percent"))
    written = None
    rows = _at(told, "ata_smart_attributes", "table")
    for row in rows if isinstance(rows, list) else []:
        name = str(_at(row, "name"))
        left = _percent(_at(row, "value"))
        raw = _count(_at(row, "raw", "value"))
        if percent is None and left is not None and left <= 100 and name in _LEFT:
            percent = 100 - left
        if written is None and raw is not None and name in _WRITTEN:
            written = raw * _WRITTEN[name]
    return Wear(percent, written, "ata")


def _scsi(told: Any) -> Wear:
    return Wear(_percent(_at(told, "scsi_percentage_used_endurance_indicator")), None, "scsi")


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(value: Any) -> int | None:
    """A drive's counter; JSON's true is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _percent(value: Any) -> int | None:
    count = _count(value)
    return count if count is not None and count <= _MOST_PERCENT else None
