"""The order in which chunks leave DRAM. Scheduler thread only.

::

    superseded        nobody will ask for them; longest unused first
    without owner     of no session, or just copied to the device; longest unused first
    of idle sessions  as the policy of prefixes cuts them, each chain from its end; what several
                      sessions hold goes after what one holds
    of sessions whose turn runs, longest unused first
    pinned            somebody has a lease on them; longest unused first

vLLM asks for a number of chunks at a time and counts references; what is referenced never goes.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.types import ChunkKey, SessionKey, Standing
from engine.core_plugin.vllm_compat import CachePolicy, ChunkStatus, OffloadKey, ReqContext

_Bucket = OrderedDict[OffloadKey, None]
"""Longest unused first."""


class Chains(Protocol):
    """What the order needs to know of sessions."""

    def chain(self, session: SessionKey) -> Sequence[ChunkKey] | None:
        """Its chunks in prefix order."""
        ...

    def is_shared(self, key: ChunkKey) -> bool:
        """Whether more than one session holds it."""
        ...

    def holders(self, keys: Sequence[ChunkKey]) -> Mapping[ChunkKey, SessionKey]:
        """For each of ``keys`` that sessions in use hold, one of these."""
        ...


class DramPolicy(CachePolicy):
    """See the module's docstring."""

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self.chunks: dict[OffloadKey, ChunkStatus] = {}
        self.standing_of: Callable[[ChunkKey], Standing] = lambda _: Standing.ORDINARY
        """Asked once for each chunk that comes; ``rank`` says what changes later."""
        self.on_held: Callable[[SessionKey, int], None] = lambda *_: None
        """Told, as the policy of prefixes is, how many chunks of a session are here now."""
        self.idle_pinned = 0
        """Pinned chunks that could be evicted."""
        self._clock: Callable[[], float] = time.monotonic
        self._prefixes: PrefixPolicy | None = None
        self._sessions: Chains | None = None
        self._evictable: set[OffloadKey] = set()
        self._standings: dict[OffloadKey, Standing] = {}
        """Of chunks that are here and not ORDINARY."""
        self._owners: dict[OffloadKey, SessionKey] = {}
        self._held: Counter[SessionKey] = Counter()
        self._of_standing: dict[Standing, _Bucket] = {each: OrderedDict() for each in Standing}
        """Those that are not ORDINARY, and those without an owner."""
        self._of_session: dict[SessionKey, _Bucket] = {}
        """Ordinary chunks of each session that has any."""

    def bind(
        self,
        prefixes: PrefixPolicy,
        sessions: Chains,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Who decides between sessions, and by which clock. Before the first chunk comes."""
        self._prefixes = prefixes
        self._sessions = sessions
        self._clock = clock

    def held(self, session: SessionKey) -> int:
        """Chunks that count as the session's, those that it has not left behind."""
        return self._held[session]

    @property
    def loose(self) -> int:
        """Chunks that no session would miss: superseded, or without an owner."""
        return sum(len(self._of_standing[each]) for each in (_SUPERSEDED, Standing.ORDINARY))

    def own(self, keys: Iterable[OffloadKey], session: SessionKey | None) -> None:
        """Chunks that are here are this session's from now on."""
        touched = set()
        for key in keys:
            before = self._owners.get(key)
            if key not in self.chunks or before == session:
                continue
            self._leave(key)
            if session is None:
                self._owners.pop(key, None)
            else:
                self._owners[key] = session
            self._enter(key)
            touched |= {before, session}
        self._tell(touched)

    def disown(self, session: SessionKey) -> None:
        """The session is gone; what is here of it is theirs who hold it too, or nobody's."""
        keys = [key for key, owner in self._owners.items() if owner == session]
        heirs: dict[SessionKey, list[OffloadKey]] = {}
        if self._sessions is not None:
            for key, heir in self._sessions.holders(list(map(ChunkKey, keys))).items():
                heirs.setdefault(heir, []).append(OffloadKey(key))
        for heir, theirs in heirs.items():
            self.own(theirs, heir)
        # The end of a prefix first: without its beginning it would be useless.
        self.own([key for key in reversed(keys) if self._owners[key] == session], None)

    def rank(self, keys: Iterable[ChunkKey], standing: Standing) -> None:
        """Give chunks that are here another standing."""
        touched = set()
        for key in map(OffloadKey, keys):
            before = self._standing(key)
            if key not in self.chunks or standing is before:
                continue
            if key in self._evictable:
                self.idle_pinned += (standing is _PINNED) - (before is _PINNED)
            self._leave(key)
            self._note(key, standing)
            self._enter(key)
            touched.add(self._owners.get(key))
        self._tell(touched)

    # --- vLLM's -----------------------------------------------------------------------------------

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        """vLLM's."""
        return self.chunks.get(key)

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """vLLM's. It has no owner until ``own``."""
        self.chunks[key] = chunk
        self._note(key, self.standing_of(ChunkKey(key)))
        self._enter(key)
        if chunk.ref_cnt == 0:
            self.mark_evictable(key)

    def remove(self, key: OffloadKey) -> None:
        """vLLM's."""
        owner = self._owners.get(key)
        self._forget(key)
        self._tell((owner,))

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """vLLM's. The end of a prefix counts as used before its beginning."""
        for key in reversed(list(keys)):
            if key in self.chunks:
                self._bucket(key).move_to_end(key)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """vLLM's: what is not here has no order yet."""

    def evict(
        self, n: int, protected: set[OffloadKey]
    ) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """vLLM's."""
        free = (k for k in self._order() if k in self._evictable and k not in protected)
        chosen = list(islice(free, n))
        if len(chosen) < n:
            return None
        evicted = [(key, self.chunks[key]) for key in chosen]
        touched = {self._owners.get(key) for key in chosen}
        for key in chosen:
            self._forget(key)
        self._tell(touched)
        return evicted

    def clear(self) -> None:
        """vLLM's."""
        for key in list(self.chunks):
            self._forget(key)

    def mark_evictable(self, key: OffloadKey) -> None:
        """vLLM's."""
        self._evictable.add(key)
        self.idle_pinned += self._standing(key) is _PINNED

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """vLLM's."""
        self._evictable.remove(key)
        self.idle_pinned -= self._standing(key) is _PINNED

    # --- inside -----------------------------------------------------------------------------------

    def _order(self) -> Iterator[OffloadKey]:
        """Every chunk once, the first to go first. Valid until something changes."""
        yield from self._of_standing[_SUPERSEDED]
        yield from self._of_standing[Standing.ORDINARY]
        seen: set[OffloadKey] = set()
        for key in self._cut():
            if key not in seen:
                seen.add(key)
                yield key
        for bucket in self._of_session.values():
            yield from (key for key in bucket if key not in seen)
        yield from self._of_standing[_PINNED]

    def _cut(self) -> Iterator[OffloadKey]:
        """Chunks of idle sessions."""
        if self._prefixes is None or self._sessions is None:
            return
        shared: dict[OffloadKey, None] = {}
        for cut in self._prefixes.victims(self._clock()):
            for key in self._ends(cut.session, cut.keep):
                if self._sessions.is_shared(ChunkKey(key)):
                    shared[key] = None
                else:
                    yield key
        yield from shared

    def _ends(self, session: SessionKey, keep: int) -> Iterator[OffloadKey]:
        """The session's chunks behind its first ``keep``, the last first; before them, where all
        go, those that its chain does not name."""
        bucket = self._of_session.get(session)
        if not bucket:
            return
        assert self._sessions is not None
        chain = [OffloadKey(key) for key in self._sessions.chain(session) or ()]
        if not keep:
            known = set(chain)
            yield from [key for key in bucket if key not in known]
        yield from (key for key in reversed(chain[keep:]) if key in bucket)

    def _forget(self, key: OffloadKey) -> None:
        if key in self._evictable:
            self.mark_non_evictable(key)
        self._leave(key)
        del self.chunks[key]
        self._standings.pop(key, None)
        self._owners.pop(key, None)

    def _enter(self, key: OffloadKey) -> None:
        """Put a chunk into its bucket."""
        self._bucket(key)[key] = None
        if (owner := self._owners.get(key)) and self._standing(key) is not _SUPERSEDED:
            self._held[owner] += 1

    def _leave(self, key: OffloadKey) -> None:
        """Take a chunk out of its bucket."""
        bucket = self._bucket(key)
        del bucket[key]
        owner = self._owners.get(key)
        if owner is None:
            return
        if not bucket and self._of_session.get(owner) is bucket:
            del self._of_session[owner]
        if self._standing(key) is not _SUPERSEDED:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

    def _bucket(self, key: OffloadKey) -> _Bucket:
        """Where a chunk belongs."""
        standing, owner = self._standing(key), self._owners.get(key)
        if standing is not Standing.ORDINARY or owner is None:
            return self._of_standing[standing]
        return self._of_session.setdefault(owner, OrderedDict())

    def _tell(self, sessions: Iterable[SessionKey | None]) -> None:
        """Tell the policy how much of these is here now."""
        if self._prefixes is None:
            return
        now = self._clock()
        for session in sorted(each for each in sessions if each is not None):
            self._prefixes.holds(session, self.held(session), now)
            self.on_held(session, self.held(session))

    def _standing(self, key: OffloadKey) -> Standing:
        return self._standings.get(key, Standing.ORDINARY)

    def _note(self, key: OffloadKey, standing: Standing) -> None:
        if standing is Standing.ORDINARY:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing


_PINNED = Standing.PINNED
_SUPERSEDED = Standing.SUPERSEDED
