"""What the value of a setting may be: text → value, or a ValueError that says what is expected."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from cache_tiers.endurance.budget import bytes_per_day

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"

_KIB = 1024
_UNITS = {"b": 1, "kib": _KIB, "mib": _KIB**2, "gib": _KIB**3, "tib": _KIB**4}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]iB|B)", re.IGNORECASE)
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_DURATION_S = 3650 * 86_400
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def absolute(text: str, environ: Mapping[str, str], cwd: Path) -> Path:
    """A path; ``~`` is the environment's home, and what is not absolute is below ``cwd``."""
    if text == "~" or text.startswith("~/"):
        text = (environ.get("HOME") or str(Path.home())) + text[1:]
    return cwd.absolute() / text


def _whole(text: str, low: int, high: int, expected: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"expected {expected}, not {text!r}")


def port(text: str) -> int:
    """Of TCP."""
    return _whole(text, 1, 65535, "a port from 1 to 65535")


def tokens(text: str) -> int | None:
    """A number of them, at least 1."""
    return _whole(text, 1, 10**9, "a number of tokens such as 8192")


def block_size(text: str) -> int | None:
    """Of KV blocks."""
    expected = "a number of tokens, a multiple of 16 from 16 to 1024"
    tokens = _whole(text, 16, 1024, expected)
    if tokens % 16:
        raise ValueError(f"expected {expected}, not {text!r}")
    return tokens


def size(text: str) -> int:
    """Bytes, in units of 1024."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"expected a size such as 512MiB, 8GiB or 0, not {text!r}")
    number, unit = match.groups()
    return int(float(number) * _UNITS[unit.lower()])


def writes_of(ssd: int) -> Callable[[str], int | None]:
    """Bytes a day that may be written to a store of ``ssd`` bytes; None for any number."""

    def parse(text: str) -> int | None:
        # A store that is off has no size to be a share of, and writes nothing whatever this says.
        return None if text == "0" else bytes_per_day(text, ssd or 2**40)

    return parse


def minimum_tokens(text: str) -> int:
    """A number of them, from 0."""
    return _whole(text, 0, 10**9, "a number of tokens such as 128, or 0")


def switch(text: str) -> bool:
    """Whether it is on."""
    if text.lower() not in ("on", "off"):
        raise ValueError(f"expected on or off, not {text!r}")
    return text.lower() == "on"


def master_key(text: str) -> str:
    """See ``MasterKeySource``. A message about the value never repeats it."""
    from cache_tiers.ssd.master_key import MasterKeySource  # heavy, and seldom needed

    MasterKeySource.parse(text)
    return text


def secret(text: str) -> str:
    """A source like the master key's. A message about the value never repeats it."""
    from cache_tiers.ssd.master_key import MasterKeySource  # heavy, and seldom needed

    try:
        MasterKeySource.parse(text)
    except ValueError:
        expected = "file:/absolute/path, env:NAME or command:program arguments"
        raise ValueError(f"expected {expected}") from None
    return text


def redis_url(text: str) -> str:
    """A message about it never repeats it: it may hold a password."""
    if not re.match(r"(redis|rediss|unix)://", text):
        raise ValueError("expected a URL such as redis://127.0.0.1:6379/0")
    return text


def seconds(text: str) -> float:
    """At most a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86_400:
        raise ValueError(f"expected seconds from 0 to 86400, not {text!r}")
    return seconds


def log_level(text: str) -> str:
    """In lower case, as ``logging`` knows it in upper case."""
    if text.lower() not in _LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(_LOG_LEVELS)}, not {text!r}")
    return text.lower()


def database_url(text: str) -> str:
    """A message about it never repeats it: it may hold a password."""
    if not re.match(r"[a-z]+\+[a-z0-9]+://", text):
        raise ValueError("expected a URL with an async driver such as sqlite+aiosqlite:///valet.db")
    return text


def api_keys(text: str) -> tuple[str, ...]:
    """Each is given once."""
    keys = tuple(key.strip() for key in text.split(","))
    if not all(re.fullmatch(r"[\x21-\x7e]+", key) for key in keys):
        raise ValueError("expected keys of printable ASCII without spaces, separated by commas")
    if len(set(keys)) != len(keys):
        raise ValueError("a key is given twice")
    return keys


def operator_key(text: str) -> str:
    """Long enough not to be guessed. A message about it never repeats it."""
    if not re.fullmatch(r"[\x21-\x7e]{16,}", text):
        raise ValueError("expected at least 16 characters of printable ASCII without spaces")
    return text


def quota(text: str) -> int:
    """So many of something, 0 for as many as come."""
    return _whole(text, 0, 10**9 - 1, "a whole number such as 600, or 0 for no limit")


def share(text: str) -> float:
    """Of a whole."""
    if not re.fullmatch(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?", text):
        raise ValueError(f"expected a share from 0 to 1 such as 0.25, not {text!r}")
    return float(text)


def duration(text: str) -> timedelta:
    """At most ten years."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhd])", text)
    length = int(match[1]) * _DURATIONS[match[2]] if match else math.inf
    if length > _MAX_DURATION_S:
        raise ValueError(f"expected a time such as 90d, 24h, 30m or 10s, not {text!r}")
    return timedelta(seconds=length)


def model_name(model: str) -> str:
    """What clients call the model of a folder or of the hub."""
    if not model:
        return DEFAULT_MODEL_NAME
    is_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    return Path(model).name or model if is_path else model
