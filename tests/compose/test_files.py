"""The files that containers are made from, as far as that shows without making any."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from deploy.make_secrets import CannotMake, make_secrets
from tests.compose.compose_file import BASE, CUDA, read_compose
from tests.valet_process import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def instructions(name: str) -> list[str]:
    """What follows each ``name`` in the Dockerfile."""
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize("files", [(BASE,), (CUDA,), (BASE, CUDA)])
def test_the_files_and_both_together_are_of_the_specification(
    files: tuple[Path, ...], tmp_path: Path
) -> None:
    read = tmp_path / "compose.yml"
    read.write_text(yaml.safe_dump(read_compose(*files)))
    checker = str(Path(sys.executable).with_name("check-jsonschema"))
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", str(read), *map(str, files)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_is_one_that_refuses(tmp_path: Path) -> None:
    wrong = read_compose(BASE)
    wrong["services"]["app"]["healthcheck"]["intervall"] = "10s"
    file = tmp_path / "compose.yml"
    file.write_text(yaml.safe_dump(wrong))
    checker = str(Path(sys.executable).with_name("check-jsonschema"))
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", str(file)], capture_output=True
    )
    assert done.returncode == 1


def test_a_gpu_is_added_and_nothing_taken_away() -> None:
    cpu, cuda = read_compose(BASE), read_compose(BASE, CUDA)
    app = cuda["services"]["app"]
    assert app["build"]["args"]["ENGINE"] == "cuda"
    (device,) = app["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert app["healthcheck"] == cpu["services"]["app"]["healthcheck"]
    assert app["environment"].items() > cpu["services"]["app"]["environment"].items()
    for service in ("postgres", "redis"):
        assert cuda["services"][service] == cpu["services"][service]


@pytest.mark.parametrize("service", ["app", "postgres", "redis"])
def test_no_secret_is_in_the_files(service: str) -> None:
    described = read_compose(BASE, CUDA)["services"][service]
    for name, value in described.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|KEY|TOKEN|URL|CONFIG", name):
            assert str(value).startswith("/run/secrets/"), name
    text = yaml.safe_dump(described)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text), "a URL with a password"
    named = set(re.findall(r"/run/secrets/([\w.]+)", text))
    assert named == set(described["secrets"]) != set()


def test_every_secret_is_a_file_of_the_folder_that_is_made(tmp_path: Path) -> None:
    make_secrets(tmp_path / "made")
    compose = read_compose(BASE, variables={"VALET_SECRETS": str(tmp_path / "made")})
    files = {Path(secret["file"]) for secret in compose["secrets"].values()}
    assert files == set((tmp_path / "made").iterdir())
    assert (tmp_path / "made").stat().st_mode & 0o777 == stat.S_IRWXU


def test_secrets_are_made_once_and_never_the_same(tmp_path: Path) -> None:
    make_secrets(tmp_path / "a")
    make_secrets(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_text() != (tmp_path / "b" / file.name).read_text()
    before = (tmp_path / "a" / "valet.toml").read_text()
    with pytest.raises(CannotMake, match="nothing was changed"):
        make_secrets(tmp_path / "a")
    assert (tmp_path / "a" / "valet.toml").read_text() == before
    redis = re.search(r"redis://valet:([^@]+)@", before)
    assert redis is not None
    assert redis[1] not in (tmp_path / "a" / "redis_users").read_text()


def test_the_folder_of_secrets_gets_neither_into_git_nor_into_the_image() -> None:
    assert "secrets/" in (REPOSITORY / ".gitignore").read_text().splitlines()
    first, *rest = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[0] != "#"
    ]
    assert first == "*"
    assert not any("secrets" in line for line in rest)


def test_the_settings_of_the_container_are_settings(tmp_path: Path) -> None:
    make_secrets(tmp_path / "made")
    environment = read_compose(BASE)["services"]["app"]["environment"]
    config = {"VALET_CONFIG": str(tmp_path / "made" / "valet.toml")}
    settings = load_settings(environment | config, tmp_path)
    assert settings.database_url.startswith("postgresql+asyncpg://valet:")
    assert settings.database_url.endswith("@postgres:5432/valet")
    assert settings.reachable
    assert not settings.allow_anonymous
    assert settings.operator_key


def test_only_the_app_is_published_and_only_to_this_machine() -> None:
    compose = read_compose(BASE)
    services: dict[str, Any] = compose["services"]
    assert services["app"]["ports"] == ["127.0.0.1:8000:8000"]
    for name in ("postgres", "redis"):
        assert "ports" not in services[name]
        assert services[name]["networks"] == ["state"]
    assert compose["networks"]["state"] == {"internal": True}


def test_what_the_image_copies_is_there_and_let_through() -> None:
    sources = [
        copied.split()[0].rstrip("/") for copied in instructions("COPY") if "--" not in copied
    ]
    let_through = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert f"!{source}" in let_through
    packages = (REPOSITORY / "pyproject.toml").read_text()
    (included,) = re.findall(r"include = (\[.*\])", packages)
    assert {name.rstrip("*") for name in json.loads(included)} < set(sources)


def test_the_image_is_made_by_what_make_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    (install,) = [run for run in instructions("RUN") if "install.py" in run]
    assert install.endswith('python3 requirements/install.py "$ENGINE"')
    assert "$(PYTHON) requirements/install.py $(ENGINE)" in makefile
    assert json.loads(instructions("ENTRYPOINT")[0]) == [".venv/bin/valet"]
    assert json.loads(instructions("CMD")[0]) == ["serve"]
    assert "$(PYTHON) deploy/make_secrets.py" in makefile


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert instructions("USER") == ["valet"]
    assert DOCKERFILE.index("USER valet") < DOCKERFILE.index("ENTRYPOINT")
    bases = instructions("FROM")
    assert len(bases) == 2
    assert {base.split()[0] for base in bases} == {"python:3.11-slim-bookworm"}


def test_shared_memory_is_larger_than_the_dram_tier(tmp_path: Path) -> None:
    for files in ((BASE,), (BASE, CUDA)):
        size = read_compose(*files)["services"]["app"]["shm_size"]
        assert int(size.removesuffix("gb")) * 1024**3 > load_settings({}, tmp_path).dram
