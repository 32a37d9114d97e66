import subprocess
import sys
from pathlib import Path

import pytest

import app.doctor
import app.main
import engine.models
from app.cli import main
from app.doctor import Finding, Verdict
from app.main import CannotServe
from app.settings import Settings
from engine.models import ModelUnavailable
from engine.port import EngineError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALET_HOME", str(tmp_path / "home"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith("valet ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["models"],
        ["serve", "a", "b"],
        ["store"],
        ["store", "dance"],
        ["store", "export", "reader"],
        ["store", "rotate-key"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_bad_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VALET_SSD", "much")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("valet: VALET_SSD: expected a size")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(("worst", "code"), [("ok", 0), ("warn", 0), ("bad", 1)])
def test_doctor_exits_1_when_something_is_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], worst: str, code: int
) -> None:
    findings = (Finding(Verdict(worst), "disk", "is slow"), Finding(Verdict.OK, "cpu", "is fast"))
    monkeypatch.setattr(app.doctor, "check", lambda settings, machine: findings)
    assert main(["doctor"]) == code
    assert capsys.readouterr().out.splitlines() == [
        f"{worst:<5}disk: is slow",
        "ok   cpu: is fast",
    ]


def test_models_prepare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def prepare(models_dir: Path, *, force: bool) -> Path:
        calls.append((models_dir, force))
        return models_dir / "model"

    monkeypatch.setattr(engine.models, "prepare_default_model", prepare)
    assert main(["models", "prepare", "--force"]) == 0
    ((models_dir, force),) = calls
    assert force
    assert capsys.readouterr().out == f"{models_dir / 'model'}\n"


def test_model_that_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(models_dir: Path, *, force: bool) -> Path:
        raise ModelUnavailable("no")

    monkeypatch.setattr(engine.models, "prepare_default_model", prepare)
    assert main(["models", "prepare"]) == 2
    assert capsys.readouterr().err == "valet: no\n"


def test_serve_takes_the_model_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []

    async def serve(settings: Settings) -> None:
        served.append(settings)

    monkeypatch.setenv("VALET_MODEL", "owner/other")
    monkeypatch.setattr(app.main, "serve", serve)
    assert main(["serve", "owner/model"]) == 0
    assert main(["serve"]) == 0
    assert [s.served_model_name for s in served] == ["owner/model", "owner/other"]


@pytest.mark.parametrize("error", [CannotServe("no"), EngineError("no")])
def test_what_keeps_it_from_serving_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    async def serve(settings: Settings) -> None:
        raise error

    monkeypatch.setattr(app.main, "serve", serve)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "valet: no\n"


def test_light_commands_load_nothing_heavy() -> None:
    heavy = "{'torch', 'vllm', 'fastapi', 'sqlalchemy', 'numpy'}"
    code = f"import sys, app.cli, app.doctor, app.machine; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, timeout=60)
    assert run.stdout.decode().strip() == "set()", run.stderr.decode()
