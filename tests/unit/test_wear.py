"""What drives say of themselves, from machines made up."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cache_tiers.wear import LocalMachine, Wear, parse_smartctl, read_wear

NVME = {
    "nvme_smart_health_information_log": {
        "critical_warning": 0,
        "percentage_used": 3,
        "data_units_written": 2_000_000,
    }
}
SATA = {
    "ata_smart_attributes": {
        "table": [
            {"id": 9, "name": "Power_On_Hours", "value": 98, "raw": {"value": 9000}},
            {"id": 177, "name": "Wear_Leveling_Count", "value": 91, "raw": {"value": 160}},
            {"id": 241, "name": "Total_LBAs_Written", "value": 99, "raw": {"value": 4_000_000}},
        ]
    }
}


class Made:
    """A machine of files; ``links`` lead from one path to another."""

    def __init__(
        self,
        volume: str = "/sys/devices/pci/nvme0n1",
        files: dict[str, str] | None = None,
        links: dict[str, str] | None = None,
        smart: str | Exception | None = None,
    ) -> None:
        self.files = files or {}
        self.links = {"/sys/dev/block/259:1": volume, **(links or {})}
        self.smart = smart
        self.asked: list[str] = []

    def device_of(self, path: Path) -> tuple[int, int]:
        if path != Path("/data"):
            raise FileNotFoundError(path)
        return 259, 1

    def resolve(self, path: Path) -> Path:
        if str(path) not in self.links:
            raise FileNotFoundError(path)
        return Path(self.links[str(path)])

    def names(self, folder: Path) -> list[str]:
        paths = [Path(name) for name in (*self.files, *self.links)]
        below = [p.relative_to(folder).parts[0] for p in paths if folder in p.parents]
        return sorted(set(below))

    def read(self, path: Path) -> str:
        if str(path) not in self.files:
            raise FileNotFoundError(path)
        return self.files[str(path)]

    def smartctl(self, device: Path) -> str | None:
        self.asked.append(str(device))
        if isinstance(self.smart, Exception):
            raise self.smart
        return self.smart


def wear_of(machine: Made) -> Wear | None:
    return read_wear(Path("/data"), machine)


def test_nvme() -> None:
    machine = Made(smart=json.dumps(NVME))
    assert wear_of(machine) == Wear(3, 2_000_000 * 512_000, "nvme")
    assert machine.asked == ["/dev/nvme0n1"]


def test_sata() -> None:
    assert parse_smartctl(json.dumps(SATA)) == Wear(9, 4_000_000 * 512, "ata")


def test_sata_that_sums_up_itself() -> None:
    told = {**SATA, "endurance_used": {"current_percent": 12}}
    assert parse_smartctl(json.dumps(told)) == Wear(12, 4_000_000 * 512, "ata")


def test_sata_in_other_units() -> None:
    row = {"name": "Host_Writes_32MiB", "value": 100, "raw": {"value": 5}}
    told = {"ata_smart_attributes": {"table": [row]}}
    assert parse_smartctl(json.dumps(told)) == Wear(None, 5 * 32 * 2**20, "ata")


def test_sas() -> None:
    told = {"scsi_percentage_used_endurance_indicator": 7}
    assert parse_smartctl(json.dumps(told)) == Wear(7, None, "scsi")


def test_a_drive_past_its_rating() -> None:
    told = {"nvme_smart_health_information_log": {"percentage_used": 255}}
    assert parse_smartctl(json.dumps(told)) == Wear(255, None, "nvme")


@pytest.mark.parametrize(
    "told",
    [
        {},
        [],
        None,
        7,
        {"nvme_smart_health_information_log": None},
        {"nvme_smart_health_information_log": {"percentage_used": "3"}},
        {"nvme_smart_health_information_log": {"percentage_used": True}},
        {"nvme_smart_health_information_log": {"percentage_used": -1, "data_units_written": 1.5}},
        {"nvme_smart_health_information_log": {"percentage_used": 256}},
        {"ata_smart_attributes": {"table": 5}},
        {"ata_smart_attributes": {"table": [None, 4, {"name": ["x"]}, {"name": "SSD_Life_Left"}]}},
        {"ata_smart_attributes": {"table": [{"name": "SSD_Life_Left", "value": 253}]}},
        {"endurance_used": [1]},
    ],
)
def test_answers_that_say_nothing(told: Any) -> None:
    assert parse_smartctl(json.dumps(told)) is None


@pytest.mark.parametrize("text", ["", "smartctl: not permitted", "{", "[" * 100_000])
def test_answers_that_are_none(text: str) -> None:
    assert parse_smartctl(text) is None


def test_a_partition_is_a_part_of_its_drive() -> None:
    volume = "/sys/devices/pci/nvme0n1/nvme0n1p2"
    machine = Made(volume, {f"{volume}/partition": "2"}, smart=json.dumps(NVME))
    assert wear_of(machine) is not None
    assert machine.asked == ["/dev/nvme0n1"]


def test_an_encrypted_volume_is_on_a_partition_of_a_drive() -> None:
    volume, below = "/sys/devices/virtual/block/dm-0", "/sys/devices/pci/sda/sda3"
    machine = Made(
        volume,
        {f"{below}/partition": "3"},
        {f"{volume}/slaves/sda3": below},
        json.dumps(SATA),
    )
    assert wear_of(machine) == Wear(9, 4_000_000 * 512, "ata")
    assert machine.asked == ["/dev/sda"]


def test_a_volume_over_two_drives_is_neither() -> None:
    volume = "/sys/devices/virtual/block/md0"
    links = {f"{volume}/slaves/{name}": f"/sys/devices/pci/{name}" for name in ("sda", "sdb")}
    machine = Made(volume, links=links)
    assert wear_of(machine) is None
    assert machine.asked == ["/dev/md0"]


def test_layers_without_end() -> None:
    volume = "/sys/devices/virtual/block/dm-0"
    assert wear_of(Made(volume, links={f"{volume}/slaves/dm-0": volume})) is None


def test_emmc_says_it_in_sysfs() -> None:
    volume = "/sys/devices/platform/mmcblk0"
    machine = Made(volume, {f"{volume}/device/life_time": "0x02 0x01\n"})
    assert wear_of(machine) == Wear(20, None, "sysfs")
    assert machine.asked == []


@pytest.mark.parametrize("text", ["0x00 0x00", "", "0xff", "worn"])
def test_emmc_that_does_not_know(text: str) -> None:
    volume = "/sys/devices/platform/mmcblk0"
    assert wear_of(Made(volume, {f"{volume}/device/life_time": text})) is None


@pytest.mark.parametrize("smart", [None, "{}", PermissionError("/dev/sda"), TimeoutError("5 s")])
def test_the_filesystem_is_asked_last(smart: str | Exception | None) -> None:
    volume = "/sys/devices/pci/sda/sda1"
    files = {f"{volume}/partition": "1", "/sys/fs/ext4/sda1/lifetime_write_kbytes": "2048\n"}
    assert wear_of(Made(volume, files, smart=smart)) == Wear(None, 2 * 2**20, "filesystem")


def test_a_path_that_is_not_there() -> None:
    assert read_wear(Path("/elsewhere"), Made()) is None


def test_a_device_with_a_strange_name_is_not_asked_for() -> None:
    machine = Made("/sys/devices/cciss!c0d0", smart=json.dumps(NVME))
    assert wear_of(machine) is None
    assert machine.asked == []


def test_this_machine_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    assert isinstance(read_wear(tmp_path), Wear | None)
    assert read_wear(tmp_path / "gone") is None
    assert LocalMachine().smartctl(Path("/dev/null")) is None


def test_the_real_smartctl_is_asked_without_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "smartctl"
    program.write_text('#!/bin/sh\nprintf \'{"argv": "%s"}\' "$*"\nexit 4\n')
    program.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: str(program))
    answer = LocalMachine().smartctl(Path("/dev/sda; rm"))
    assert answer == '{"argv": "--json -A /dev/sda; rm"}'


def test_a_drive_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: "/usr/sbin/smartctl")
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(TimeoutError):
        LocalMachine().smartctl(Path("/dev/sda"))
