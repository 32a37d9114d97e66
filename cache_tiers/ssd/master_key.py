"""Where the master key comes from: 32 bytes that open the keyring, kept apart from the store.

Errors::

    StoreUnusable
    └── MasterKeyError    there is no usable key; the message is one line and shows no secret
"""

import base64
import binascii
import errno
import os
import re
import select
import shlex
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cache_tiers.ssd.files import Files, OsFiles, write_fully
from cache_tiers.ssd.keyring import KEY_BYTES
from cache_tiers.store import StoreUnusable

_COMMAND_LIMIT_S = 30.0
_MAX_TEXT_BYTES = 1024
"""Far more than a key; what a wrong file or command gives is not read to its end."""
_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
"""Too short for a key: one that was put here by mistake must not be shown as a name."""


class MasterKeyError(StoreUnusable):
    """There is no usable master key."""


class _Kind(StrEnum):
    FILE = "file"
    ENV = "env"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, repr=False)
class MasterKeySource:
    """``file:/path``, ``env:NAME`` or ``command:program arguments``. As text it shows of a command
    the program alone: arguments may be secret."""

    kind: _Kind
    words: tuple[str, ...]
    """The path, the variable's name, or the program and its arguments."""

    @classmethod
    def parse(cls, text: str) -> "MasterKeySource":
        """Raises ValueError; its message does not repeat ``text``, which may be a key."""
        kind, _, rest = text.partition(":")
        if kind == _Kind.FILE and rest.startswith("/") and "\0" not in rest:
            return cls(_Kind.FILE, (rest,))
        if kind == _Kind.ENV and _VARIABLE.fullmatch(rest):
            return cls(_Kind.ENV, (rest,))
        if kind == _Kind.COMMAND and "\0" not in rest and (words := _words(rest)):
            return cls(_Kind.COMMAND, words)
        raise ValueError(
            "a master key comes from file:/absolute/path, env:NAME (at most 40 letters, digits "
            "and _) or command:program arguments"
        )

    def read(
        self,
        environ: Mapping[str, str],
        limit_s: float = _COMMAND_LIMIT_S,
        name: str = "master key",
    ) -> bytes:
        """The key's 32 bytes, from 64 hexadecimal digits or their base64. Blocks: a command gets
        ``limit_s`` seconds and ``environ``. Raises MasterKeyError, which calls it ``name``."""
        try:
            if self.kind == _Kind.FILE:
                text = _read_file(Path(self.words[0]))
            elif self.kind == _Kind.ENV:
                text = _read_variable(self.words[0], environ)
            else:
                text = _run(self.words, environ, limit_s)
            return _decode(text)
        except OSError as error:
            raise MasterKeyError(f"no {name} from {self}: {error.strerror or error}") from None
        except _Unusable as reason:
            raise MasterKeyError(f"no {name} from {self}: {reason}") from None

    @property
    def path(self) -> Path | None:
        """The file that the key is in; None when it comes from elsewhere."""
        return Path(self.words[0]) if self.kind is _Kind.FILE else None

    def __str__(self) -> str:
        return f"{self.kind}:{self.words[0]}"

    __repr__ = __str__


def create_key_file(path: Path, files: Files | None = None) -> None:
    """Make a file with a new random key that only its owner may read; durable on return.

    Raises FileExistsError when there is one, MasterKeyError when it cannot be made.
    """
    files = files or OsFiles()
    text = os.urandom(KEY_BYTES).hex().encode() + b"\n"
    try:
        file = files.create(path)
        try:
            write_fully(files, file, [memoryview(text)], 0)
            files.sync(file)
            files.sync_folder(path.parent)
        except OSError:
            files.remove(path)
            raise
        finally:
            files.close(file)
    except FileExistsError:
        raise
    except OSError as error:
        raise MasterKeyError(f"{path} cannot be made: {error.strerror}") from None


class _Unusable(Exception):
    """Why there is no key."""


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return ()


def _read_file(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _Unusable("it is a symbolic link") from None
        raise
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("it is not a regular file")
        if status.st_uid != os.geteuid():
            raise _Unusable("it belongs to another user")
        if status.st_mode & 0o077:
            raise _Unusable("others may read it: chmod 600")
        return os.read(file, _MAX_TEXT_BYTES)
    finally:
        os.close(file)


def _read_variable(name: str, environ: Mapping[str, str]) -> bytes:
    if not (value := environ.get(name)):
        raise _Unusable("the variable is not set")
    return value.encode(errors="replace")


def _run(words: tuple[str, ...], environ: Mapping[str, str], limit_s: float) -> bytes:
    """What the program prints. What it says on stderr may hold secrets, and goes nowhere."""
    until = time.monotonic() + limit_s
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
    ) as process:
        try:
            text = _read_pipe(process, until)
            status = process.wait(max(0.0, until - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise _Unusable(f"it did not end within {limit_s:g} s") from None
        finally:
            process.kill()
    if status:
        raise _Unusable(f"it ended with status {status}")
    return text


def _read_pipe(process: "subprocess.Popen[bytes]", until: float) -> bytes:
    assert process.stdout
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    text = b""
    while len(text) <= _MAX_TEXT_BYTES:
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(pipe, _MAX_TEXT_BYTES)
        if not piece:
            return text
        text += piece
    raise _Unusable("it printed more than a key")


def _decode(text: bytes) -> bytes:
    text = text.removesuffix(b"\n").removesuffix(b"\r")
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise _Unusable("what it holds is neither 64 hexadecimal digits nor base64 of 32 bytes")
    return key
