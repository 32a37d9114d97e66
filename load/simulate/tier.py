"""A tier of prefixes with a limit, in chunks, and the policy that says what goes."""

from collections.abc import Callable, Mapping

from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.types import SessionKey
from load.simulate.chains import Chains, Session


class Tier:
    """What sessions claim of it: the beginnings of their chains, common ones once.

    What is in use is never cut. If that alone is more than the tier takes, nothing else is in it
    and ``room`` is below 0.
    """

    def __init__(
        self,
        level: int,
        capacity: float,
        policy: PrefixPolicy,
        chains: Chains,
        sessions: Mapping[SessionKey, Session],
        on_cut: Callable[[Session, int, float], None],
    ) -> None:
        """``on_cut(session, before, now)`` is told of every cut, ``before`` being what was
        present."""
        self.level = level
        self.capacity = capacity
        self.policy = policy
        self.used = 0
        """Chunks claimed."""
        self._chains = chains
        self._sessions = sessions
        self._on_cut = on_cut

    @property
    def room(self) -> float:
        """Chunks that it takes without a cut."""
        return self.capacity - self.used

    def claim(self, session: Session, chunks: int, now: float) -> None:
        """So many leading chunks have room from now on; of those that had it and are not among
        them, nothing is left."""
        if chunks == session.claimed[self.level]:
            return
        self.used += self._chains.claim(session, self.level, chunks)
        if session.present[self.level] > chunks:
            session.present[self.level] = chunks
        self.policy.holds(session.key, chunks, now)

    def share(self, session: Session, now: float) -> None:
        """What others have of the session's chain is there for it, too."""
        chunks = self._chains.others(session, self.level)
        if chunks > session.present[self.level]:
            self.claim(session, max(chunks, session.claimed[self.level]), now)
            session.present[self.level] = chunks

    def make_room(self, chunks: int, now: float, before: Session | None = None) -> None:
        """Cut until there is room for so many more, or nothing is left to cut. What its policy
        would cut later than ``before`` stays."""
        if self.used + chunks <= self.capacity:
            return
        level = self.level
        for cut in self.policy.victims(now):
            session = self._sessions[cut.session]
            if session.claimed[level] <= cut.keep or session.locked:
                continue
            if session is before:
                return
            need = int(self.used + chunks - self.capacity)
            keep = self._chains.shorter(session, level, cut.keep, need)
            present = session.present[level]
            self.claim(session, keep, now)
            self._on_cut(session, present, now)
            if self.used + chunks <= self.capacity:
                return
