"""The compose files as Docker Compose reads them: interpolated, and one on top of the other."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.valet_process import REPOSITORY

BASE = REPOSITORY / "docker-compose.yml"
CUDA = REPOSITORY / "docker-compose.cuda.yml"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")
_REPLACED = {"command", "entrypoint", "test"}
"""Lists that a later file replaces; it appends to all others."""


def read_compose(*files: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The files merged, with ``${NAME:-default}`` from ``variables``: the one form they use."""
    merged: dict[str, Any] = {}
    for file in files:
        text = _VARIABLE.sub(
            lambda found: (variables or {}).get(found["name"]) or found["default"], file.read_text()
        )
        assert "$" not in text.replace("$$", ""), f"{file.name}: a variable of another form"
        merged = _merge(merged, yaml.safe_load(text))
    return merged


def _merge(below: Any, above: Any, key: str = "") -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        both = {
            name: _merge(below[name], above[name], name) for name in below.keys() & above.keys()
        }
        return below | above | both
    if isinstance(below, list) and isinstance(above, list) and key not in _REPLACED:
        return below + above
    return above
