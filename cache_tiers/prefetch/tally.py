"""What prefetches were good for: counted until the next turn of their session, or until they go."""

from dataclasses import dataclass, replace

from cache_tiers.types import SessionKey


@dataclass(frozen=True, slots=True)
class PrefetchCounts:
    """Since the beginning. In chunks, but for the times."""

    fetched: int = 0
    used: int = 0
    """Of ``fetched``, those that the session's next turn found in the tier."""
    wasted: int = 0
    """Of ``fetched``, those that left the tier before that, or that the turn did not ask for."""
    late: int = 0
    """Those on their way when the session's next turn asked for them. Of those that it waited for
    in the tier itself, it is ``used`` that they count in, too."""
    late_turns: int = 0
    late_s: float = 0.0
    """How long after those turns had asked the last of theirs came, in all."""

    @property
    def precision(self) -> float:
        """Of the chunks whose fate is known, the share that was used; 1 before the first."""
        known = self.used + self.wasted
        return self.used / known if known else 1.0


class PrefetchTally:
    """One tier's. One thread. A chunk is named by its place in its session's chain."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._counts = PrefetchCounts()
        self._unasked: dict[SessionKey, tuple[int, int]] = {}
        """What was fetched and not yet asked for: where it begins and ends."""

    @property
    def counts(self) -> PrefetchCounts:
        """As of now."""
        return self._counts

    @property
    def wasted_bytes(self) -> int:
        """Read for nothing."""
        return self._counts.wasted * self._chunk_bytes

    def fetched(self, session: SessionKey, start: int, end: int) -> None:
        """The chunks ``start … end`` of the session have come; with those before they make one
        run, in whatever order they come."""
        first, last = self._unasked.get(session, (start, end))
        self._unasked[session] = (min(first, start), max(last, end))
        self._add(fetched=end - start)

    def holds(self, session: SessionKey, chunks: int) -> None:
        """The tier holds so many leading chunks of the session, no more."""
        start, end = self._unasked.get(session, (0, 0))
        if chunks < end:
            self._add(wasted=end - max(start, chunks))
            if chunks > start:
                self._unasked[session] = (start, chunks)
            else:
                del self._unasked[session]

    def asked(self, session: SessionKey, found: int, coming: int = 0) -> None:
        """The next turn asks, and finds ``found`` leading chunks of its own in the tier;
        ``coming`` more are being fetched."""
        start, end = self._unasked.pop(session, (0, 0))
        used = min(end, max(start, found)) - start
        self._add(used=used, wasted=end - start - used)
        if coming:
            self._add(late=coming, late_turns=1)

    def waited(self, seconds: float) -> None:
        """So long after a turn has asked, the last of what was being fetched for it has come."""
        self._add(late_s=seconds)

    def forget(self, session: SessionKey) -> None:
        """The session has no next turn."""
        self.holds(session, 0)

    def _add(
        self,
        *,
        fetched: int = 0,
        used: int = 0,
        wasted: int = 0,
        late: int = 0,
        late_turns: int = 0,
        late_s: float = 0.0,
    ) -> None:
        counts = self._counts
        self._counts = replace(
            counts,
            fetched=counts.fetched + fetched,
            used=counts.used + used,
            wasted=counts.wasted + wasted,
            late=counts.late + late,
            late_turns=counts.late_turns + late_turns,
            late_s=counts.late_s + late_s,
        )
