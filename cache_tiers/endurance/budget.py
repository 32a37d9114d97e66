"""How many bytes may be written a day: a token bucket. Pure."""

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

DAY_S = 86_400.0

_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BUDGET = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(DWPD|[KMGT]iB|B)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a bucket must not forget when its process dies."""

    level: float
    """Bytes that could be written at ``at``."""
    at: float
    """Seconds since the epoch."""


class WriteBudget:
    """``bytes_per_day`` flow in evenly, at most a day's worth is kept. Thread safe.

    A crash must not give back what was spent, and saving at every ``take`` would itself wear the
    drive. So save ahead: ``state(ahead)`` is the state after ``ahead`` more bytes; as long as
    ``unsaved`` is not above ``ahead``, what was saved grants no more than what is left.
    """

    def __init__(
        self,
        bytes_per_day: int,
        clock: Callable[[], float],
        state: BudgetState | None = None,
    ) -> None:
        """``clock`` gives seconds since the epoch. Full when there is no ``state``, empty when it
        makes no sense. Raises ValueError unless ``bytes_per_day`` is positive."""
        if bytes_per_day <= 0:
            raise ValueError("a write budget is at least a byte a day")
        self._bytes_per_day = bytes_per_day
        self._clock = clock
        self._lock = threading.Lock()
        self._level = float(bytes_per_day)
        self._at = clock()
        self._unsaved = 0
        if state is not None:
            known = math.isfinite(state.level) and math.isfinite(state.at)
            self._level = min(max(state.level, 0.0), self._level) if known else 0.0
            self._at = state.at if known else self._at

    @property
    def bytes_per_day(self) -> int:
        return self._bytes_per_day

    @property
    def level(self) -> int:
        """Bytes that may be written now."""
        with self._lock:
            self._refill()
            return int(self._level)

    @property
    def fraction_left(self) -> float:
        """The level as a share of a day's budget, 0 … 1."""
        with self._lock:
            self._refill()
            return self._level / self._bytes_per_day

    @property
    def unsaved(self) -> int:
        """Bytes taken since ``state`` was last called."""
        with self._lock:
            return self._unsaved

    def take(self, size: int) -> bool:
        """Charge ``size`` bytes before they are written: all of them, or none and False. What
        takes more than a whole day's budget is never granted. Raises ValueError for a negative
        size."""
        if size < 0:
            raise ValueError("cannot give back bytes that were written")
        with self._lock:
            self._refill()
            if size > self._level:
                return False
            self._level -= size
            self._unsaved += size
            return True

    def state(self, ahead: int = 0) -> BudgetState:
        """To save: as if ``ahead`` more bytes had been taken, as far as there are so many."""
        with self._lock:
            self._refill()
            self._unsaved = 0
            return BudgetState(max(0.0, self._level - ahead), self._at)

    def _refill(self) -> None:
        """Time flows only forwards: a clock set back starts anew from where it is."""
        now = self._clock()
        elapsed = min(max(now - self._at, 0.0), DAY_S)
        grown = self._level + elapsed / DAY_S * self._bytes_per_day
        self._level = min(grown, float(self._bytes_per_day))
        self._at = now


def bytes_per_day(text: str, capacity_bytes: int) -> int:
    """Of a setting: bytes a day (``200GiB``), or drive writes a day (``0.5 DWPD``) of a drive of
    ``capacity_bytes``. Raises ValueError for anything else, and for less than a byte."""
    match = _BUDGET.fullmatch(text.strip())
    if match is not None:
        number, unit = match.groups()
        size = int(float(number) * _UNITS.get(unit.lower(), capacity_bytes))
        if size > 0:
            return size
    raise ValueError(f"expected bytes a day such as 200GiB, or 0.5 DWPD, not {text!r}")
