"""When something remote may be tried again after it failed: pure, with a clock passed in."""

from collections.abc import Callable


class Outage:
    """Lets everybody through while all is well. After a failure, one caller every ``retry_s``; the
    others need not wait for what they would not get. Used on one event loop."""

    def __init__(self, retry_s: float, monotonic: Callable[[], float]) -> None:
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._next_try: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether the last thing heard was a failure."""
        return self._next_try is not None

    def admits(self) -> bool:
        """Whether the caller may try now; then it says how it went, with ``failed`` or
        ``ended``."""
        if self._next_try is None:
            return True
        if self._monotonic() < self._next_try:
            return False
        self._next_try = self._monotonic() + self._retry_s
        return True

    def failed(self) -> bool:
        """It failed; True when it had worked until now."""
        begins = self._next_try is None
        self._next_try = self._monotonic() + self._retry_s
        return begins

    def ended(self) -> bool:
        """It works; True when it had failed until now."""
        ends = self._next_try is not None
        self._next_try = None
        return ends
