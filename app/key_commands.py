"""``valet keys add | rotate | revoke | list``: API keys in the database, beside a running server.

Each prints what it has to say and returns the process's exit code. A new key is all that its
command writes to stdout, once; what there is to say about it goes to stderr.
"""

import sys
from datetime import UTC, datetime, timedelta

from app.operating import table, with_tenancy
from app.settings import Settings
from sessions.tenancy.directory import POLL_S
from sessions.tenancy.keys import NewKey
from sessions.tenancy.types import ApiKey, KeyState

_FOLLOWS = f"A running server follows within {2 * POLL_S:.0f} seconds."


def add_key(settings: Settings, tenant: str, label: str, life: timedelta | None) -> int:
    """Make a key and show it. 0."""
    key = with_tenancy(settings, lambda tenancy: tenancy.add_key(tenant, label, life))
    _show(key, f"Key {key.id} of {tenant}.")
    return 0


def rotate_key(settings: Settings, key_id: str, overlap: timedelta) -> int:
    """Make a key in the place of another and show it. 0."""
    key = with_tenancy(settings, lambda tenancy: tenancy.rotate_key(key_id, overlap))
    _show(key, f"Key {key.id} takes the place of {key_id}, which works for another {overlap}.")
    return 0


def revoke_key(settings: Settings, key_id: str) -> int:
    """End a key. 0."""
    key = with_tenancy(settings, lambda tenancy: tenancy.revoke_key(key_id))
    print(f"Key {key.id} of {key.tenant} is revoked. {_FOLLOWS}")
    return 0


def list_keys(settings: Settings, tenant: str | None) -> int:
    """Show keys, and none of their secrets. 0."""
    keys = with_tenancy(settings, lambda tenancy: tenancy.keys(tenant))
    if not keys:
        print("there are no keys")
        return 0
    head = ("ID", "TENANT", "STATE", "CREATED", "ENDS", "LABEL")
    for line in table([head, *(_row(key, state) for key, state in keys)]):
        print(line)
    return 0


def _row(key: ApiKey, state: KeyState) -> tuple[str, ...]:
    ends = key.revoked_at or key.expires_at
    # A label is the operator's, but a terminal obeys what it is shown.
    label = "".join(c if c.isprintable() else "?" for c in key.label)
    return (key.id, key.tenant, state, _time(key.created_at), _time(ends) if ends else "-", label)


def _show(key: NewKey, about: str) -> None:
    print(key.text, flush=True)
    print(f"{about} It is shown this once. {_FOLLOWS}", file=sys.stderr)


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
