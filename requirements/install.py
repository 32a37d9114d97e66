"""Make ``.venv`` hold what a lock says: ``python3 requirements/install.py cpu|cuda [dev]``.

Needs nothing but Python. Each step leaves a stamp when it is done, of what it was done from: a
step whose stamp fits is skipped, an environment without a fitting first stamp (half made, another
lock, another Python) is made anew.
"""

import hashlib
import importlib.util
import platform
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)


class CannotInstall(Exception):
    """The message is one line and says what to do."""


def main(engine: str, dev: bool) -> None:
    """Bring the environment up to date. Raises CannotInstall."""
    lock = ROOT / "requirements" / f"{engine}.lock"
    if not is_done("engine", lock):
        check_python()
        say(f"making {VENV}")
        venv.create(VENV, clear=True, with_pip=True)
        check_torch(lock)
        say(f"installing {lock.name}: some minutes")
        pip_install("--no-deps", "-r", str(lock))
        done("engine", lock)
    project = ROOT / "pyproject.toml"
    if not is_done("valet", project):
        pip_install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
        done("valet", project)
    tools = ROOT / "requirements" / "dev.lock"
    if dev and not is_done("dev", tools):
        say(f"installing {tools.name}")
        pip_install("--no-deps", "-r", str(tools))
        done("dev", tools)


def check_python() -> None:
    """Raises CannotInstall where this Python cannot make the environment."""
    if sys.version_info < OLDEST:
        raise CannotInstall(
            f"python3 is {platform.python_version()}: Valet needs 3.11 or later (make PYTHON=…)"
        )
    if importlib.util.find_spec("ensurepip") is None:
        package = "python{}.{}-venv".format(*sys.version_info)
        raise CannotInstall(f"python3 cannot make environments: install the package {package}")


def check_torch(lock: Path) -> None:
    """torch's CPU build is not where pip looks by default: find out before the long part."""
    pin = next((pin for pin in lock.read_text().split() if pin.startswith("torch=")), "")
    if "+cpu" in pin and pip("install", "--dry-run", "--no-deps", pin, quiet=True) != 0:
        raise CannotInstall(
            f"pip finds no {pin}: add PyTorch's CPU wheel index to pip's configuration "
            "(extra-index-url) and try again"
        )


def pip_install(*arguments: str) -> None:
    """Raises CannotInstall; pip has said why."""
    if pip("install", "--quiet", *arguments) != 0:
        raise CannotInstall(f"pip install {' '.join(arguments)} failed, see above")


def pip(*arguments: str, quiet: bool = False) -> int:
    """Run the environment's pip; its exit code."""
    output = subprocess.DEVNULL if quiet else None
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=output, stderr=output).returncode


def is_done(step: str, source: Path) -> bool:
    """Whether ``step`` was last done from ``source`` as it is now, by this Python."""
    stamp = VENV / f"installed-{step}"
    return stamp.is_file() and stamp.read_text() == stamp_text(source)


def done(step: str, source: Path) -> None:
    """Leave the stamp."""
    (VENV / f"installed-{step}").write_text(stamp_text(source))


def stamp_text(source: Path) -> str:
    """What a step depends on: the Python, which file, and its content."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return f"{platform.python_version()} {source.name} {digest}\n"


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"valet: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], dev="dev" in sys.argv[2:])
    except CannotInstall as error:
        sys.exit(f"valet: {error}")
