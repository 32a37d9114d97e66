"""One database, one secret: a process with another one is told before it writes what no other
process could read."""

import hashlib
import hmac

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.inserting import insert_new
from sessions.models import installation
from sessions.types import StateUnavailable


async def check_secret(connection: AsyncConnection, secret: bytes) -> None:
    """The first process leaves a mark of its secret, which does not give it away. Raises
    StateUnavailable when the secret is another one."""
    mark = hmac.digest(secret, b"valet installation", hashlib.sha256)
    row = insert_new(connection, installation).values(id=1, secret_check=mark)
    await connection.execute(row)
    query = select(installation.c.secret_check).where(installation.c.id == 1)
    stored: bytes = (await connection.execute(query)).scalar_one()
    if not hmac.compare_digest(stored, mark):
        raise StateUnavailable(
            "This process's secret is not the one that the session database is used with: give "
            "every process the same VALET_SECRET, or this one a database of its own."
        )
