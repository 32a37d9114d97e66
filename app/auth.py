"""Who is asking, and the secret that keeps one tenant's KV from another's.

Errors::

    SecretUnusable    the secret's file cannot be made, or is not one
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.errors import KEYS_UNKNOWN, OPERATOR_NEEDED, UNAUTHENTICATED, Problem
from sessions.tenancy.directory import TenantDirectory
from sessions.tenancy.keys import digest

LOCAL_TENANT = "local"
"""Everybody's tenant where there are no keys."""

_SECRET_BYTES = 32


class SecretUnusable(Exception):
    """The server's secret cannot be used; the message says why."""


class Authenticator:
    """Knows the tenants by their API keys, of which it keeps only hashes.

    A key takes as long to look up whosever it is, and however many there are: ``KeyTable`` says why
    nothing can be learned from that time.
    """

    def __init__(
        self,
        api_keys: Sequence[str],
        directory: TenantDirectory,
        *,
        anonymous: bool,
        operator_key: str = "",
    ) -> None:
        """``api_keys`` are those of the settings, beside the directory's. ``anonymous``: whether
        somebody without a key may ask as long as there are no keys."""
        self._static = {digest(key): tenant_of(key) for key in api_keys}
        self._directory = directory
        self._anonymous = anonymous
        self._operator = digest(operator_key) if operator_key else None

    @property
    def in_force(self) -> bool:
        """Whether there are keys, so that a valid one is needed."""
        return bool(self._static) or self._directory.has_keys

    def tenant(self, headers: Mapping[str, str]) -> str | Problem:
        """The tenant whose key is in ``Authorization: Bearer`` or ``x-api-key``, or why there is
        none. ``headers`` have lower-case names."""
        key = _key(headers)
        offered = digest(key)
        tenant = self._static.get(offered) or self._directory.tenant(offered)
        if tenant is not None:
            return tenant
        if not self._directory.known and (key or not self._static):
            return KEYS_UNKNOWN
        return LOCAL_TENANT if self._anonymous and not self.in_force else UNAUTHENTICATED

    def refuses_operator(self, headers: Mapping[str, str]) -> Problem | None:
        """Why this is not the operator; None when it is, or when nobody needs to be: without keys
        there is one tenant, and what the server says of itself is not about others.

        Who connects says nothing: behind a reverse proxy everybody comes from this machine.
        """
        if self._operator is not None:
            offered = digest(_key(headers))
            return None if hmac.compare_digest(self._operator, offered) else OPERATOR_NEEDED
        may = self._directory.known and not self.in_force and self._anonymous
        return None if may else OPERATOR_NEEDED


def tenant_of(api_key: str) -> str:
    """16 hex digits that name a key's owner and do not show the key."""
    return hashlib.sha256(b"valet tenant\0" + api_key.encode()).hexdigest()[:16]


def tenant_salt(secret: bytes, tenant: str) -> str:
    """What starts every KV chain of a tenant: hex, not to be guessed without the secret."""
    return hmac.new(secret, tenant.encode(), hashlib.sha256).hexdigest()


def load_secret(path: Path) -> bytes:
    """The server's 32 random bytes; made, with mode 0600, when there are none.

    Losing the file loses every stored KV and nothing else. Raises SecretUnusable.
    """
    try:
        if not path.exists():
            _make_secret(path)
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except OSError as error:
        raise SecretUnusable(f"{path} cannot be used: {error.strerror}") from error
    if not stat.S_ISREG(mode) or len(secret) != _SECRET_BYTES:
        raise SecretUnusable(f"{path} is not a secret of {_SECRET_BYTES} bytes: move it away")
    if mode & 0o077:
        raise SecretUnusable(f"{path} can be read by others: chmod 600 it")
    return secret


def _make_secret(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Linked into place when complete: a crash leaves no half secret, and of two starts one wins.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
