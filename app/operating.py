"""What the commands of an operator share: the database, which a server may be using, and tables."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from app.settings import Settings
from sessions.database import open_database
from sessions.tenancy.service import Tenancy

Result = TypeVar("Result")


def with_tenancy(settings: Settings, work: Callable[[Tenancy], Awaitable[Result]]) -> Result:
    """Do ``work`` on the database of the settings. Raises StateUnavailable, and what it raises."""

    async def run() -> Result:
        database = await open_database(settings.database_url)
        try:
            return await work(Tenancy(database, lambda: datetime.now(UTC)))
        finally:
            await database.close()

    return asyncio.run(run())


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns under one another."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    padded = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in padded]
