"""Tenants and their API keys, as plain values.

Errors::

    TenancyError           the root; the message is one line
    ├── BadTenantName      no tenant can have this name
    ├── TooMany            the installation has no room for another
    ├── UnknownTenant      no tenant of this name
    ├── UnknownKey         no usable key of this id
    └── QuotaExceeded      a tenant has all that it may have
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sessions.tenancy.quotas import Quotas

RESERVED_NAMES: Final = frozenset({"public", "local"})
"""What all tenants share, and whoever asks without a key."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TenancyError(Exception):
    """Something about a tenant or a key cannot be done."""


class BadTenantName(TenancyError):
    """No tenant can have this name."""


class TooMany(TenancyError):
    """The installation has no room for another."""


class UnknownTenant(TenancyError):
    """No tenant of this name."""


class UnknownKey(TenancyError):
    """No usable key of this id."""


class QuotaExceeded(TenancyError):
    """A tenant has all that it may have."""


class KeyState(StrEnum):
    """What a key is good for."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose sessions and KV are apart from everybody else's."""

    name: str
    created_at: datetime
    quotas: Quotas
    """Limits of its own; those it does not have are the installation's."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What the database knows of a key, which is not the key."""

    id: str
    tenant: str
    label: str
    """The operator's note."""
    digest: bytes
    """SHA-256 of the key."""
    created_at: datetime
    expires_at: datetime | None = None
    """From then on it is refused; None for never."""
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> KeyState:
        """Whether it is accepted at ``now``, and if not, why."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.VALID


def check_tenant_name(name: str) -> str:
    """``name`` itself. Raises BadTenantName."""
    if not _NAME.fullmatch(name):
        raise BadTenantName(
            "a tenant's name has 1 to 64 of A-Z a-z 0-9 . _ - and starts with a letter or a digit"
        )
    if name.lower() in RESERVED_NAMES:
        raise BadTenantName(f"{name} is a name that Valet uses itself")
    return name
