"""Schemathesis on every operation that ``/openapi.json`` names: no request makes a server error."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.valet_process import MODEL, ValetProcess

KEY = "key-of-the-client"
PER_OPERATION = 10
"""Requests made up for an operation, beside those that try each of its limits."""
PER_OPERATION_REAL = 3
SCAN_S = 500


def scan(
    server: ValetProcess,
    known: Mapping[str, Sequence[str]],
    folder: Path,
    *options: str,
) -> dict[str, Any]:
    """Schemathesis' report. Half of the time the parameters in ``known`` are of its values, the
    same each time, and else made up."""
    lines = []
    for name, values in known.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(list(values))}"]
    lines += ["[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.5 }}' for name in known]
    config, report = folder / "schemathesis.toml", folder / "report.json"
    config.write_text("\n".join(lines))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]
    command += ["run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"]
    command += ["--checks", "not_a_server_error", "--generation-deterministic", "--no-color"]
    command += ["--report-json-path", str(report), "--workers", "1", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SCAN_S)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["operations"]["tested"] == found["operations"]["total"]
    print(f"{found['test_cases']['generated']} requests, no server error")
    return found


def make_known(server: ValetProcess) -> dict[str, list[str]]:
    """Sessions, responses and conversations that exist, some for each operation that ends one."""
    known: dict[str, list[str]] = {"session_id": [], "response_id": [], "conversation_id": []}
    with server.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        (model,) = [model["id"] for model in client.get("/v1/models").json()["data"]]
        for number in range(6):
            text = f"number {number}"
            chat = {"model": model, "messages": [{"role": "user", "content": text}]}
            answer = client.post("/v1/chat/completions", json={**chat, "max_tokens": 2})
            known["session_id"].append(answer.headers["x-session-id"])
            response = {"model": model, "input": text, "max_output_tokens": 2}
            known["response_id"].append(client.post("/v1/responses", json=response).json()["id"])
            made = client.post("/v1/conversations", json={})
            known["conversation_id"].append(made.json()["id"])
    return known


def test_nothing_that_valet_serves_fails(tmp_path: Path) -> None:
    settings = {"VALET_API_KEYS": KEY, "VALET_SSD": "0"}
    program = ("tests.clients.fake_server",)
    with ValetProcess(tmp_path / "home", settings, program=program) as server:
        found = scan(
            server,
            make_known(server),
            tmp_path,
            "--phases=coverage,fuzzing",
            f"--max-examples={PER_OPERATION}",
        )
        assert server.stop() == 0
    assert found["test_cases"]["generated"] > 300


@pytest.mark.engine
def test_nothing_that_the_engine_serves_fails(server: ValetProcess, tmp_path: Path) -> None:
    found = scan(
        server,
        make_known(server),
        tmp_path,
        "--phases=fuzzing",
        f"--max-examples={PER_OPERATION_REAL}",
        "--request-timeout=180",
    )
    assert found["test_cases"]["generated"] > 50
    with server.client() as client:
        assert client.get("/health").status_code == 200
        body = {"model": MODEL, "prompt": "Still here", "max_tokens": 1}
        assert client.post("/v1/completions", json=body).status_code == 200
