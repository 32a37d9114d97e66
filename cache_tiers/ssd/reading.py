"""A read under way, and its deadline."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from cache_tiers.store import ReadOutcome


class Reading:
    """See ``cache_tiers.store.Reading``. ``deadline`` and ``clock`` in seconds; ``on_late`` is
    told, once, of how many chunks have come too late."""

    def __init__(
        self,
        outcomes: Sequence[ReadOutcome | None],
        runs: int,
        deadline: float,
        clock: Callable[[], float],
        on_late: Callable[[int], None],
    ) -> None:
        """``outcomes`` are None for the chunks that ``runs`` transfers will fetch."""
        self._outcomes = list(outcomes)
        self._runs = runs
        self.deadline = deadline
        self._clock = clock
        self._on_late = on_late
        self._changed = threading.Condition()
        self._said: list[ReadOutcome] | None = None
        self._transfers: list[Future[None]] = []

    def expect(self, transfer: "Future[None]") -> None:
        """One of the transfers. If it has not begun by the deadline it is given up, and its buffers
        are free: a disk that hangs holds those alone that it was asked for."""
        self._transfers.append(transfer)
        transfer.add_done_callback(self._end_if_cancelled)

    def begin_run(self) -> bool:
        """Whether a transfer may still begin: nobody waits for one after the deadline."""
        return self.outcomes() is None

    def end_run(self, outcomes: Sequence[tuple[int, ReadOutcome]]) -> None:
        """A transfer has left its buffers; what became of the chunks at these positions."""
        with self._changed:
            for position, outcome in outcomes:
                self._outcomes[position] = outcome
            self._runs -= 1
            if not self._runs:
                self._transfers.clear()
            self._changed.notify_all()

    @property
    def released(self) -> bool:
        return not self._runs

    def outcomes(self) -> list[ReadOutcome] | None:
        late = 0
        transfers: list[Future[None]] = []
        with self._changed:
            if self._said is None and (not self._runs or self._clock() > self.deadline):
                late = self._outcomes.count(None)
                self._said = [ReadOutcome.LATE if o is None else o for o in self._outcomes]
                transfers = list(self._transfers)
            said = self._said
        for transfer in transfers:
            transfer.cancel()
        if late:
            self._on_late(late)
        return None if said is None else list(said)

    def wait(self) -> list[ReadOutcome]:
        """Block until every transfer has left its buffers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._runs)
        outcomes = self.outcomes()
        assert outcomes is not None
        return outcomes

    def _end_if_cancelled(self, transfer: "Future[None]") -> None:
        if transfer.cancelled():
            self.end_run(())
