"""Where settings come from: the environment, and a file.

Errors::

    SettingsError    the settings do not make sense; the message is one line and names the setting
"""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from app import setting_values as value

PREFIX = "VALET_"


class SettingsError(Exception):
    """The settings do not make sense."""


Values = dict[str, tuple[str, str]]
"""Name → text, and what to call its source in a message."""


def read_values(names: Collection[str], environ: Mapping[str, str], cwd: Path) -> Values:
    """What is said of the settings ``names`` in this environment and this working folder. Raises
    SettingsError for what is said of any other, and for a file that cannot be used."""
    return _from_file(names, environ, cwd) | _from_environment(names, environ)


def _from_environment(names: Collection[str], environ: Mapping[str, str]) -> Values:
    values: Values = {}
    if environ.get("PORT"):
        values["port"] = (environ["PORT"], "PORT")
    known = {PREFIX + name.upper(): name for name in names} | {f"{PREFIX}CONFIG": ""}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise SettingsError(f"{variable} is not a setting{_nearest(variable, known)}")
        if text.strip() and known[variable]:
            values[known[variable]] = (text.strip(), variable)
    return values


def _from_file(names: Collection[str], environ: Mapping[str, str], cwd: Path) -> Values:
    named = environ.get(f"{PREFIX}CONFIG", "").strip()
    file = value.absolute(named or "valet.toml", environ, cwd)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise SettingsError(f"VALET_CONFIG: there is no file {file}") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{file} is not TOML: {error}") from None
    values: Values = {}
    for key, item in table.items():
        if key not in names:
            raise SettingsError(f"{key} in {file} is not a setting{_nearest(key, names)}")
        values[key] = (_toml_text(item, f"{key} in {file}"), f"{key} in {file}")
    return {name: text for name, text in values.items() if text[0]}


def _toml_text(value: object, source: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise SettingsError(f"{source}: expected a string or a number")


def _nearest(name: str, known: Iterable[str]) -> str:
    by_lower = {known_name.lower(): known_name for known_name in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return f"; the nearest one is {by_lower[near[0]]}"
