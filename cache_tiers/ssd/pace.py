"""A rate that is not exceeded."""

import math
import threading
import time
from collections.abc import Callable


class Pace:
    """Bytes a second, without bursts: as a disk that gives no more, one thing after another. Any
    thread."""

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Infinitely many for no limit. Raises ValueError unless ``bytes_per_s`` is positive."""
        if bytes_per_s <= 0:
            raise ValueError("a rate is more than 0 bytes a second")
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def wait(self, size: int, until: float = math.inf) -> bool:
        """Return when ``size`` bytes would be there, behind all that were asked for before. False,
        at once, if that is later than ``until`` of the clock: then they are not counted."""
        with self._lock:
            now = self._clock()
            there_at = max(now, self._free_at) + size / self.bytes_per_s
            if there_at > until:
                return False
            self._free_at = there_at
        if there_at > now:
            self._sleep(there_at - now)
        return True
