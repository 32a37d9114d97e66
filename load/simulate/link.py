"""A link that fills a tier from the one below: one transfer at a time, requests' before prefetches.

What a request waits for, or will, goes in the order in which it was asked, at once. A prefetch goes
on only while there is nothing of that; it is interrupted where it is, and takes room in pieces as
it goes.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from load.simulate.chains import Session
from load.simulate.tier import Tier

Done = Callable[[float], None]
"""Called with the time."""

Schedule = Callable[[float, Done], None]
"""``(at, event)``: ``event`` is called with the time when that has come."""


@dataclass(slots=True)
class _Job:
    session: Session
    upto: int
    done: Done | None
    """For what a request waits for; None for a prefetch."""
    from_s: float = 0.0
    """Nothing of it comes before."""
    began: float = 0.0
    start: int = 0
    """Chunks that were present then."""
    end: int = 0
    """Of the piece under way."""


class Link:
    """See the module's docstring. Times in seconds, sizes in chunks."""

    def __init__(
        self,
        tier: Tier,
        chunks_per_s: float,
        piece_s: float,
        schedule: Schedule,
        fixed_s: float = 0.0,
        parallel: int = 1,
    ) -> None:
        """``fixed_s``: before the first chunk of what a request asks for comes, whatever else is
        loaded meanwhile. ``parallel``: so many of a request's chunks come at the same time."""
        self.tier = tier
        self.fetched = 0
        """Chunks that prefetches have brought."""
        self.loaded = 0
        """Chunks that were brought for requests."""
        self.over = False
        """A prefetch has ended since this was last set back."""
        self._level = tier.level
        self._rate = chunks_per_s
        self._fixed_s = fixed_s
        self._parallel = parallel
        self._piece = max(1, int(piece_s * chunks_per_s))
        self._schedule = schedule
        self._demands: deque[_Job] = deque()
        self._fetches: deque[_Job] = deque()
        self._job: _Job | None = None
        """Under way: the first of either queue."""
        self._serial = 0

    @property
    def demanded(self) -> bool:
        """Whether a request waits for a load, or will."""
        return bool(self._demands)

    def wait_s(self, session: Session, now: float) -> float:
        """How long it takes until what is loaded for the session is there, behind what others wait
        for."""
        self.sync(now)
        at = now
        for job in self._demands:
            if job is self._job:
                at = job.began + (job.upto - job.start) / self._rate
            else:
                chunks = job.upto - job.session.present[self._level]
                at = max(at, job.from_s) + chunks / self._rate
            if job.session is session:
                break
        return max(0.0, at - now)

    def demand(self, session: Session, upto: int, now: float, done: Done) -> None:
        """Load for a request, which has claimed the room; ``done`` is called when so much is there.
        Asked again, it loads so much instead."""
        asked = next((job for job in self._demands if job.session is session), None)
        if asked is not None and asked.upto == upto:
            return
        if self._job is not None and (self._job.done is None or self._job is asked):
            self._interrupt(now)
        self._drop_fetch(session)
        if asked is None:
            self._demands.append(_Job(session, upto, done, now + self._fixed_s))
        else:
            asked.upto = upto

    def drop(self, session: Session, now: float) -> None:
        """Nothing is to be loaded for the session any more."""
        if self._job is not None and self._job.session is session:
            self._interrupt(now)
        self._drop_fetch(session)
        self._demands = deque(job for job in self._demands if job.session is not session)

    def loading(self, session: Session) -> bool:
        """Whether a request of the session's waits for a load, or will."""
        return any(job.session is session for job in self._demands)

    def fetching(self, session: Session) -> bool:
        """Whether a prefetch of the session's is not over."""
        return any(job.session is session for job in self._fetches)

    def fetch(self, fetches: Iterable[tuple[Session, int]], now: float) -> None:
        """Prefetch these sessions up to so many chunks, the first first, instead of the others."""
        jobs = deque(_Job(session, upto, None) for session, upto in fetches)
        job = self._job
        if job is not None and job.done is None:
            if jobs and jobs[0].session is job.session:
                job.upto = max(job.end, jobs[0].upto)
                jobs[0] = job
            else:
                self._interrupt(now)
        self._fetches = jobs

    def sync(self, now: float) -> None:
        """Bring up to date what is present of the session that is under way."""
        self._sync(now, self._parallel)

    def _sync(self, now: float, parallel: int) -> None:
        job = self._job
        if job is not None:
            came = min(job.end, job.start + max(0, int((now - job.began) * self._rate)))
            if job.done is not None and came < job.end:
                came -= (came - job.start) % parallel
            self._came(job, came)

    def shortened(self, session: Session, now: float) -> None:
        """The session was cut."""
        job = self._job
        if job is not None and job.session is session:
            job.end = min(job.end, session.claimed[self._level])
            self._interrupt(now)
        self._drop_fetch(session)

    def go(self, now: float) -> None:
        """Begin the next transfer if none is under way."""
        while self._job is None and self._demands:
            job = self._demands[0]
            if job.session.present[self._level] < job.upto:
                self._begin(job, job.upto, now)
            else:
                self._demands.popleft()
                if job.done is not None:
                    job.done(now)
        while self._job is None and self._fetches:
            job = self._fetches[0]
            granted = self._grant(job, now)
            if granted:
                end = job.session.present[self._level] + granted
                self.tier.claim(job.session, end, now)
                self._begin(job, end, now)
            else:
                self._fetches.popleft()

    def _grant(self, job: _Job, now: float) -> int:
        """Chunks of a prefetch for which there is room, or could be made."""
        session = job.session
        missing = min(job.upto - session.present[self._level], self._piece)
        if missing <= 0 or session.locked:
            return 0
        self.tier.make_room(missing, now, session)
        return max(0, int(min(missing, self.tier.room)))

    def _begin(self, job: _Job, end: int, now: float) -> None:
        job.start, job.end = job.session.present[self._level], end
        job.began = max(now, job.from_s)
        self._job = job
        self._serial += 1
        serial = self._serial
        at = job.began + (end - job.start) / self._rate
        self._schedule(at, lambda _: self._finish(serial))

    def _finish(self, serial: int) -> None:
        job = self._job
        if job is None or serial != self._serial:
            return
        self._came(job, job.end)
        self._job = None
        if job.done is None and job.end >= job.upto:
            self._fetches.popleft()
            self.over = True

    def _interrupt(self, now: float) -> None:
        """Stop where it is; what a prefetch has not brought has no room any more."""
        self._sync(now, 1)
        job, self._job = self._job, None
        if job is not None and job.done is None:
            session = job.session
            if session.claimed[self._level] > session.present[self._level]:
                self.tier.claim(session, session.present[self._level], now)

    def _came(self, job: _Job, chunks: int) -> None:
        present = job.session.present
        more = chunks - present[self._level]
        if more <= 0:
            return
        present[self._level] = chunks
        if job.done is None:
            self.fetched += more
            if job.session.fetched_from is None:
                job.session.fetched_from = chunks - more
        else:
            self.loaded += more

    def _drop_fetch(self, session: Session) -> None:
        if any(job.session is session for job in self._fetches):
            self._fetches = deque(job for job in self._fetches if job.session is not session)
