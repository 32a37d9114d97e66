"""Every setting of Valet, read once, before anything starts.

A setting is named ``VALET_PORT`` in the environment and ``port`` in ``valet.toml``; the environment
wins. The file is the one that ``VALET_CONFIG`` names, or ``valet.toml`` in the working folder if
there is one. An empty variable counts as not set.

Errors::

    SettingsError    the settings do not make sense; the message is one line and names the setting
"""

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

PREFIX = "VALET_"
DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
DEFAULT_MODEL_MAX_LEN = 8192

_KIB = 1024
_UNITS = {"b": 1, "kib": _KIB, "mib": _KIB**2, "gib": _KIB**3, "tib": _KIB**4}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]iB|B)", re.IGNORECASE)
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_SQLITE = "sqlite+aiosqlite:///"

T = TypeVar("T")


class SettingsError(Exception):
    """The settings do not make sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree; sizes in bytes, times in seconds. Its ``repr`` shows no secret."""

    host: str
    port: int
    home: Path
    """Absolute. Everything Valet keeps is below it."""
    model: str
    """A folder or a hub name; empty for the default model."""
    served_model_name: str
    """What clients write as ``model``."""
    max_model_len: int | None
    """Tokens of prompt and answer together; None leaves it to the model's own config."""
    block_size: int | None
    """Tokens in a KV block; None leaves it to the engine."""
    device_kv: int
    dram: int
    ssd: int
    """0 turns the store off."""
    database_url: str = field(repr=False)
    api_keys: tuple[str, ...] = field(repr=False)
    """Empty: no key is asked for, and only this machine may connect."""
    drain_s: float
    """How long a stopping server waits for running requests and for the store."""
    log_level: str

    @property
    def store_dir(self) -> Path:
        """The SSD tier's segments."""
        return self.home / "store"

    @property
    def models_dir(self) -> Path:
        """Models that Valet made itself."""
        return self.home / "models"

    @property
    def secret_file(self) -> Path:
        """The installation's secret, from which keys and salts are derived."""
        return self.home / "secret"

    @property
    def database_path(self) -> Path | None:
        """The database's file; None when the database is in memory or on a server."""
        path = self.database_url.removeprefix(_SQLITE).partition("?")[0]
        if path == self.database_url or path in ("", ":memory:"):
            return None
        return Path(path)


def load_settings(environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings of a process with this environment in this working folder.

    Reads at most one file and no global state. Raises SettingsError.
    """
    values = _from_file(environ, cwd) | _from_environment(environ)

    def setting(name: str, parse: Callable[[str], T], default: T) -> T:
        if name not in values:
            return default
        text, source = values[name]
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{source}: {error}") from None

    def path(text: str) -> Path:
        return _absolute(text, environ, cwd)

    home = setting("home", path, path("~/.local/share/valet"))
    model = setting("model", str, "")
    settings = Settings(
        host=setting("host", str, "127.0.0.1"),
        port=setting("port", _port, 8000),
        home=home,
        model=model,
        served_model_name=setting("served_model_name", str, _model_name(model)),
        max_model_len=setting("max_model_len", _tokens, None if model else DEFAULT_MODEL_MAX_LEN),
        block_size=setting("block_size", _block_size, None),
        device_kv=setting("device_kv", _size, 1 * _KIB**3),
        dram=setting("dram", _size, 512 * _KIB**2),
        ssd=setting("ssd", _size, 8 * _KIB**3),
        database_url=setting("database_url", _database_url, f"{_SQLITE}{home / 'valet.db'}"),
        api_keys=setting("api_keys", _api_keys, ()),
        drain_s=setting("drain_s", _seconds, 20.0),
        log_level=setting("log_level", _log_level, "info"),
    )
    _check_together(settings)
    return settings


# --- where values come from: name → (text, what to call its source in a message) ----------------

_Values = dict[str, tuple[str, str]]


def _from_environment(environ: Mapping[str, str]) -> _Values:
    values: _Values = {}
    if environ.get("PORT"):
        values["port"] = (environ["PORT"], "PORT")
    known = {PREFIX + name.upper(): name for name in _names()} | {f"{PREFIX}CONFIG": ""}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise SettingsError(f"{variable} is not a setting{_nearest(variable, known)}")
        if text.strip() and known[variable]:
            values[known[variable]] = (text.strip(), variable)
    return values


def _from_file(environ: Mapping[str, str], cwd: Path) -> _Values:
    named = environ.get(f"{PREFIX}CONFIG", "").strip()
    file = _absolute(named or "valet.toml", environ, cwd)
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
    names = _names()
    values: _Values = {}
    for key, value in table.items():
        if key not in names:
            raise SettingsError(f"{key} in {file} is not a setting{_nearest(key, names)}")
        values[key] = (_toml_text(value, f"{key} in {file}"), f"{key} in {file}")
    return {name: value for name, value in values.items() if value[0]}


def _toml_text(value: object, source: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise SettingsError(f"{source}: expected a string or a number")


def _names() -> list[str]:
    return [f.name for f in fields(Settings)]


def _nearest(name: str, known: Iterable[str]) -> str:
    by_lower = {known_name.lower(): known_name for known_name in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return f"; the nearest one is {by_lower[near[0]]}"


# --- what a value may be: text → value, or a ValueError that says what is expected ---------------


def _absolute(text: str, environ: Mapping[str, str], cwd: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        text = (environ.get("HOME") or str(Path.home())) + text[1:]
    return cwd.absolute() / text


def _whole(text: str, low: int, high: int, expected: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"expected {expected}, not {text!r}")


def _port(text: str) -> int:
    return _whole(text, 1, 65535, "a port from 1 to 65535")


def _tokens(text: str) -> int | None:
    return _whole(text, 1, 10**9, "a number of tokens such as 8192")


def _block_size(text: str) -> int | None:
    expected = "a number of tokens, a multiple of 16 from 16 to 1024"
    tokens = _whole(text, 16, 1024, expected)
    if tokens % 16:
        raise ValueError(f"expected {expected}, not {text!r}")
    return tokens


def _size(text: str) -> int:
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"expected a size such as 512MiB, 8GiB or 0, not {text!r}")
    number, unit = match.groups()
    return int(float(number) * _UNITS[unit.lower()])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86_400:
        raise ValueError(f"expected seconds from 0 to 86400, not {text!r}")
    return seconds


def _log_level(text: str) -> str:
    if text.lower() not in _LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(_LOG_LEVELS)}, not {text!r}")
    return text.lower()


def _database_url(text: str) -> str:
    # The value may hold a password: a message about it never repeats it.
    if not re.match(r"[a-z]+\+[a-z0-9]+://", text):
        raise ValueError("expected a URL with an async driver such as sqlite+aiosqlite:///valet.db")
    return text


def _api_keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    if not all(re.fullmatch(r"[\x21-\x7e]+", key) for key in keys):
        raise ValueError("expected keys of printable ASCII without spaces, separated by commas")
    if len(set(keys)) != len(keys):
        raise ValueError("a key is given twice")
    return keys


def _model_name(model: str) -> str:
    if not model:
        return DEFAULT_MODEL_NAME
    is_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    return Path(model).name or model if is_path else model


def _check_together(settings: Settings) -> None:
    if settings.device_kv == 0:
        raise SettingsError("VALET_DEVICE_KV: expected more than 0: the engine computes in it")
    if settings.dram == 0:
        raise SettingsError("VALET_DRAM: expected more than 0: KV leaves the device through it")
    if not settings.api_keys and not _is_loopback(settings.host):
        raise SettingsError(
            f"VALET_HOST is {settings.host}, which other machines can reach: set VALET_API_KEYS"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
