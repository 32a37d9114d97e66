"""Fencing: a lease counts only as long as the database has seen no newer one of its name.

Errors::

    StaleLease    somebody else has taken the lease since; nothing may be written under this one
"""

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.coordination.port import Lease
from sessions.inserting import insert_into
from sessions.models import fences


class StaleLease(Exception):
    """Somebody else has taken the lease since."""


async def newest_token(connection: AsyncConnection, name: str) -> int:
    """The newest token that was accepted under a name; 0 before the first."""
    query = select(fences.c.token).where(fences.c.name == name)
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def accept(connection: AsyncConnection, lease: Lease) -> None:
    """Call it first in a transaction that the lease protects: until that ends, no other one of this
    name begins, and none with an older token ever again. Two coordinators that do not know of each
    other may give the same token; then the first holder keeps it. Raises StaleLease."""
    statement = insert_into(connection, fences).values(
        name=lease.name, token=lease.token, holder=lease.holder
    )
    new = statement.excluded
    # Two that each have a coordinator of their own may hold leases with one token.
    newer = or_(
        fences.c.token < new.token,
        and_(fences.c.token == new.token, fences.c.holder == new.holder),
    )
    accepted = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"token": new.token, "holder": new.holder}, where=newer
        )
    )
    if accepted.rowcount != 1:
        raise StaleLease(f"The lease {lease.name!r} has gone to another holder.")
