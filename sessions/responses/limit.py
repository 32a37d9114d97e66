"""How much a tenant may have stored."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.responses.repository import ResponseRepository

_STEPS: Final = 16
_TENANTS_KNOWN: Final = 4096


class StoredLimit:
    """Keeps each tenant's responses and conversations within a number of bytes, of their JSON.
    Beyond it, those go that expire first.

    To count is slow, so it is done after each sixteenth that was added, and what is then above
    fifteen goes: one process keeps to the limit, several to within a sixteenth each.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._step = limit // _STEPS
        self._uncounted: dict[str, int] = {}

    def takes(self, size: int) -> bool:
        """Whether so many bytes may be stored at all."""
        return size <= self._limit - self._step

    async def added(self, connection: AsyncConnection, tenant: str, size: int) -> None:
        """Call it in the unit of work that stored ``size`` more bytes."""
        # Nobody knows what was there before this process.
        uncounted = self._uncounted.pop(tenant, self._step) + size
        if uncounted >= self._step:
            await ResponseRepository(connection).trim(tenant, self._limit - self._step)
            uncounted = 0
        while len(self._uncounted) >= _TENANTS_KNOWN:
            del self._uncounted[next(iter(self._uncounted))]
        self._uncounted[tenant] = uncounted
