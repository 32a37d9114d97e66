"""What an operator sees: metrics, health, logs, settings that are wrong, the doctor."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from stat import S_ISLNK

import httpx
import pytest

from tests.e2e.conversation import chat, user
from tests.valet_process import REPOSITORY, ValetProcess


def command(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VALET_")}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=REPOSITORY,
        env=clean | {"VALET_HOME": str(home)} | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def counted(http: httpx.Client, name: str) -> float:
    """A counter's value; 0 before its first event."""
    lines = http.get("/metrics").text.splitlines()
    return float(next((x.rpartition(" ")[2] for x in lines if x.startswith(f"{name} ")), 0))


def test_metrics_are_valets_and_the_engines(http: httpx.Client) -> None:
    finished = 'valet_turns_total{outcome="finished"}'
    before, computed = counted(http, finished), counted(http, "valet_computed_tokens_total")
    receipt = http.post("/v1/chat/completions", json=chat(user("Hi"))).json()["kv_receipt"]
    assert counted(http, finished) == before + 1
    now = counted(http, "valet_computed_tokens_total")
    assert now == computed + receipt["computed_tokens"]
    text = http.get("/metrics").text
    for name in ("vllm:num_requests_running", "vllm:prompt_tokens_total", "vllm:kv_offload"):
        assert name in text


def test_health(http: httpx.Client) -> None:
    assert http.get("/health").status_code == 200


def test_prompts_are_not_logged(valet: ValetProcess, http: httpx.Client) -> None:
    marker = "zanzibarian-marmalade"
    body = chat(user(f"My secret is {marker}."))
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert http.post("/v1/chat/completions", json=body | {"n": 0}).status_code == 400
    assert http.post("/v1/chat/completions", json=body | {"stop": 7}).status_code == 400
    assert marker not in valet.text_log()


def test_files_are_the_owners_alone(valet: ValetProcess) -> None:
    kept = {}
    for path in valet.home.rglob("*"):
        with suppress(FileNotFoundError):  # it runs: drafts of files come and go
            kept[path] = path.lstat().st_mode
    assert any(path.is_relative_to(valet.store) for path in kept)
    assert not [path for path, mode in kept.items() if not S_ISLNK(mode) and mode & 0o077]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"VALET_DRAMM": "1GiB"}, "the nearest one is VALET_DRAM"),
        ({"VALET_SSD": "plenty"}, "VALET_SSD: expected a size"),
        ({"VALET_HOST": "0.0.0.0"}, "set VALET_API_KEYS"),
        ({"VALET_MODEL": "/no/such/model"}, "there is no folder /no/such/model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_wrong_stop_the_start(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    ended = command(tmp_path / "home", "serve", **settings)
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]


def test_the_doctor(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    small = {"VALET_DEVICE_KV": "64MiB", "VALET_DRAM": "64MiB", "VALET_SSD": "64MiB"}
    healthy = command(tmp_path, "doctor", **small)
    assert healthy.returncode == 0, healthy.stdout
    for subject in ("python", "packages", "cpu", "disk", "/dev/shm", "database"):
        assert f" {subject}: " in healthy.stdout
    sick = command(tmp_path, "doctor", **small | {"VALET_SSD": "900TiB"})
    assert sick.returncode == 1
    assert "bad  disk" in sick.stdout
