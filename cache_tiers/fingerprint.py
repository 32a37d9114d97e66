"""What makes KV bytes reusable, as one name.

Two engines with one fingerprint would compute the same bytes for the same tokens; anything that
could change a byte belongs into the facts.
"""

import contextlib
import os
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import xxhash

Fact = bool | int | float | str | bytes | None

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_CONFIGS = frozenset(
    {"config.json", "params.json", "adapter_config.json"}
    | {"quantize_config.json", "quantization_config.json", "hf_quant_config.json"}
)
"""Files that say what a model computes. Tokenizers and generation defaults change tokens, which
the chunk keys cover."""
_READ_BYTES = 8 * 2**20
_MAX_CACHE_BYTES = 4 * 2**20
_MAX_CACHED_FILES = 4096
_SETTLED_S = 2.0
"""A file changed twice in less may show the same times: no filesystem's clock is coarser."""


def fingerprint(facts: Mapping[str, Fact]) -> str:
    """32 hexadecimal digits that are the same for the same facts in any order, and differ when a
    name, a value or a value's type does."""
    digest = xxhash.xxh3_128()
    for name in sorted(facts):
        for part in (name.encode(), *_tagged(facts[name])):
            digest.update(struct.pack("<Q", len(part)))
            digest.update(part)
    return digest.hexdigest()


def weights_digest(
    model: Path, cache: Path | None = None, clock: Callable[[], float] = time.time
) -> str:
    """32 hexadecimal digits over a model's weights, its configuration and its own code, each with
    its name inside ``model``: a folder, or one file. Where the model is does not matter.

    ``cache`` remembers each file's digest by what ``stat`` says of it, so that a large model is
    read once; a cache that cannot be read, trusted or written is as good as none. What changed
    only just is not remembered: another change might not show. Raises OSError when the model cannot
    be read.
    """
    settled_ns = int((clock() - _SETTLED_S) * 1e9)
    known = _read_cache(cache) if cache else {}
    found: dict[str, str] = {}
    facts: dict[str, Fact] = {}
    for name, path in sorted(_model_files(model)):
        status, facts[name] = _file_digest(path, known)
        if status.st_ctime_ns <= settled_ns:
            found[_identity(status)] = str(facts[name])
    if cache and not found.keys() <= known.keys():
        _write_cache(cache, {**known, **found})
    return fingerprint(facts)


def _tagged(value: Fact) -> tuple[bytes, bytes]:
    if isinstance(value, bytes):
        return b"bytes", value
    if isinstance(value, float):
        return b"float", struct.pack("<d", value)
    return type(value).__name__.encode(), str(value).encode()


def _model_files(model: Path) -> list[tuple[str, Path]]:
    if model.is_file():
        return [(model.name, model)]
    found = []
    for folder, folders, names in os.walk(model, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith((*_WEIGHTS, ".py")) or name in _CONFIGS:
                path = Path(folder, name)
                found.append((path.relative_to(model).as_posix(), path))
    return found


def _raise(error: OSError) -> None:
    raise error


def _file_digest(path: Path, known: Mapping[str, str]) -> tuple[os.stat_result, str]:
    """What ``stat`` says of the file, and the xxh3_128 of its content."""
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        identity = _identity(status)
        if identity in known:
            return status, known[identity]
        digest = xxhash.xxh3_128()
        buffer = memoryview(bytearray(_READ_BYTES))
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
        if _identity(os.fstat(file.fileno())) != identity:
            raise OSError(f"{path} changed while it was read")
        return status, digest.hexdigest()


def _identity(status: os.stat_result) -> str:
    return (
        f"{status.st_dev}:{status.st_ino}:{status.st_size}:"
        f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    )


def _read_cache(path: Path) -> dict[str, str]:
    """Only what no other user can have written."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return {}
            return msgspec.json.decode(file.read(_MAX_CACHE_BYTES), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _write_cache(path: Path, entries: dict[str, str]) -> None:
    kept = dict(list(entries.items())[-_MAX_CACHED_FILES:])
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(kept))
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
