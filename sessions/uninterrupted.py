"""Work that a client's disconnect must not cut in two."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def uninterrupted(work: Awaitable[Result]) -> Result:
    """Run ``work`` to its end, then be cancelled if the caller was cancelled meanwhile.

    Only for work that is short and bounded. When the caller is cancelled, ``work``'s own error is
    the cancellation's cause.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()
