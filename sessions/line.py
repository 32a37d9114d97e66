"""The line in front of a database that has one connection: units of work have their turn in it."""

import asyncio
from collections import deque


class Ticket:
    """One unit's place in the line. To be given up, whether it was used or not; giving it up twice
    is giving it up once."""

    def __init__(self, line: "Line") -> None:
        self.hurry = asyncio.Event()
        """Set when the unit must not be held back: another one waits behind it."""
        self.called = asyncio.Event()
        """Set when nobody is in front."""
        self._line = line

    async def turn(self) -> None:
        """Wait until nobody is in front. Raises TimeoutError when that takes too long."""
        if not self.called.is_set():
            async with asyncio.timeout(self._line.wait_s):
                await self.called.wait()

    def give_up(self) -> None:
        """Let the next one have its turn."""
        self._line.remove(self)


class Line:
    """Tickets in the order in which they were taken. Used on one event loop."""

    def __init__(self, wait_s: float) -> None:
        """``wait_s`` is how long a unit waits for its turn."""
        self.wait_s = wait_s
        self._tickets: deque[Ticket] = deque()

    def join(self) -> Ticket:
        """The last place, at once."""
        ticket = Ticket(self)
        if self._tickets:
            self._tickets[-1].hurry.set()
        self._tickets.append(ticket)
        self._tickets[0].called.set()
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """The place is free."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            if self._tickets:
                self._tickets[0].called.set()
