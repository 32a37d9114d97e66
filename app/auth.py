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

LOCAL_TENANT = "local"
"""Everybody's tenant when no keys are configured."""

_SECRET_BYTES = 32


class SecretUnusable(Exception):
    """The server's secret cannot be used; the message says why."""


class Authenticator:
    """Knows the tenants by their API keys, of which it keeps only hashes."""

    def __init__(self, api_keys: Sequence[str]) -> None:
        self._tenants = {_digest(key): tenant_of(key) for key in api_keys}

    def tenant(self, headers: Mapping[str, str]) -> str | None:
        """The tenant whose key is in ``Authorization: Bearer`` or ``x-api-key``; None for no key
        or a wrong one. ``headers`` have lower-case names. Takes as long for every wrong key."""
        if not self._tenants:
            return LOCAL_TENANT
        offered = _digest(_key(headers))
        found = None
        for digest, tenant in self._tenants.items():
            if hmac.compare_digest(digest, offered):
                found = tenant
        return found


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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
