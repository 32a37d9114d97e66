"""Saying once that the disk fails, and once that it works again."""

import logging
import threading

_log = logging.getLogger(__name__)


class Health:
    """Whether something can do something: ``Health("The SSD store", "read")``. Thread safe."""

    def __init__(self, what: str, does: str) -> None:
        self._what = what
        self._does = does
        self._lock = threading.Lock()
        self._healthy = True

    @property
    def healthy(self) -> bool:
        return self._healthy

    def failed(self, error: Exception) -> None:
        """A transfer failed."""
        if self._changed(healthy=False):
            _log.warning(
                "%s cannot %s: %s. No further failure is logged until it can.",
                self._what,
                self._does,
                error,
            )

    def succeeded(self) -> None:
        """A transfer went through."""
        if not self._healthy and self._changed(healthy=True):
            _log.info("%s can %s again.", self._what, self._does)

    def _changed(self, *, healthy: bool) -> bool:
        with self._lock:
            changed = self._healthy != healthy
            self._healthy = healthy
            return changed
