"""``valet tenants set | show | list``: quotas of single tenants, beside a running server.

Each prints what it has to say and returns the process's exit code.
"""

from collections.abc import Mapping

from app.operating import table, with_tenancy
from app.settings import Settings
from app.store_commands import size_text
from sessions.tenancy.quotas import BYTES, NAMES, Quotas
from sessions.tenancy.types import Tenant


def set_quotas(settings: Settings, tenant: str, changes: Mapping[str, int | None]) -> int:
    """Change some quotas, by their names; None for the installation's own. 0."""
    changed = with_tenancy(settings, lambda tenancy: tenancy.set_quotas(tenant, changes))
    _print(settings, changed)
    return 0


def show_tenant(settings: Settings, tenant: str) -> int:
    """What one tenant may use. 0."""
    _print(settings, with_tenancy(settings, lambda tenancy: tenancy.tenant(tenant)))
    return 0


def list_tenants(settings: Settings) -> int:
    """What every tenant may use that has keys or quotas. 0."""
    tenants = with_tenancy(settings, lambda tenancy: tenancy.tenants())
    rows = [("TENANT", *NAMES)]
    for tenant in tenants:
        quotas = tenant.quotas.over(settings.quotas)
        rows.append((tenant.name, *(_text(quotas, name) for name in NAMES)))
    for line in table(rows):
        print(line)
    return 0


def _print(settings: Settings, tenant: Tenant) -> None:
    print(tenant.name)
    own, effective = tenant.quotas.stored(), tenant.quotas.over(settings.quotas)
    rows = [
        (f"  {name}", _text(effective, name), "" if name in own else "(the installation's)")
        for name in NAMES
    ]
    for line in table(rows):
        print(line)


def _text(quotas: Quotas, name: str) -> str:
    limit = quotas.limits().get(name)
    if limit is None:
        return "no limit"
    return size_text(limit) if name in BYTES else str(limit)
