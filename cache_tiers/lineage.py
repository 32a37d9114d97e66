"""What sessions hold, and what becomes of it when histories grow, fork, change and end.

A thin layer over the manifests: for each session its *chain*, what was put *aside* (see
``supersession``) and what it *left* behind, each under a name of its own, so that all of it
survives a restart and is reached when the session is deleted. A chunk that several sessions hold is
counted, not copied. On its owner's thread; nothing here touches a tier.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from cache_tiers.manifest import LEFT, Manifests
from cache_tiers.supersession import Succession, common, succession
from cache_tiers.types import ChunkKey, SessionKey

_ASIDE = "\0aside"
_MOST_LEFT = 4_096
"""Chunks that a session has left behind and that nobody else holds are remembered so far, the
latest. Those before it are only out of reach of a deletion by name: their key is destroyed with the
session's."""
_MOST_LEFT_SHARED = 65_536
"""The same for those that others, as a fork, hold: these lose their key to the session's deletion
when the session does not know them any more."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a turn, a fork or a cut made of chunks."""

    left: int = 0
    """Chunks of the session's chain that it left behind and nobody else holds."""
    superseded: list[ChunkKey] = field(default_factory=list)
    """These are the first to go now, and were not before."""
    wanted: list[ChunkKey] = field(default_factory=list)
    """These were, and are held again."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a session held."""

    orphans: list[ChunkKey]
    """Nobody holds these now."""
    shared: list[ChunkKey]
    """Others hold these, or have left them behind."""
    superseded: list[ChunkKey]
    """Of ``shared``, what nobody but the session still wanted."""


class Lineage:
    """See the module's docstring."""

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests

    def sessions(self) -> list[SessionKey]:
        """All sessions that are known, the least recently changed first."""
        return [name for name in self._manifests.sessions() if "\0" not in name]

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """The session's chunks in prefix order; None when it is not known."""
        return self._manifests.get(session)

    def beside(self, session: SessionKey) -> tuple[ChunkKey, ...]:
        """What the session holds besides its chain: put aside, or left behind."""
        return (*self._get(session + _ASIDE), *self._get(session + LEFT))

    def is_superseded(self, key: ChunkKey) -> bool:
        """Whether everybody who held ``key`` has left it behind."""
        return self._manifests.superseded(key)

    def all_superseded(self) -> list[ChunkKey]:
        """Every chunk that is so now."""
        lists = [self._get(name) for name in self._manifests.sessions() if name.endswith(LEFT)]
        keys = dict.fromkeys(key for left in lists for key in left)
        return [key for key in keys if self.is_superseded(key)]

    def keepers(self, key: ChunkKey) -> int:
        """How many sessions hold ``key`` and have not left it behind."""
        return self._manifests.keepers(key)

    def has_other_holders(self, session: SessionKey, key: ChunkKey, *, in_chain: bool) -> bool:
        """Whether another session holds ``key``; ``in_chain``: whether this one's chain does."""
        own = in_chain + (key in self._get(session + _ASIDE))
        return self._manifests.keepers(key) > own

    def left_by(
        self,
        session: SessionKey,
        came_with: Sequence[ChunkKey] | None,
        new: Sequence[ChunkKey],
        *,
        alone: bool,
    ) -> int:
        """How many chunks ``remember`` would leave behind. Changes nothing."""
        held = self.chain(session) or ()
        kind = succession(
            held, self._get(session + _ASIDE), new, alone=alone and held == (came_with or ())
        )
        if kind is not Succession.REPLACED:
            return 0
        kept = {*new}
        return sum(
            key not in kept and self._manifests.keepers(key) == 1
            for key in held[common(held, new) :]
        )

    def remember(
        self,
        session: SessionKey,
        came_with: Sequence[ChunkKey] | None,
        new: Sequence[ChunkKey],
        *,
        alone: bool,
    ) -> Change:
        """A turn of the session has computed the chain ``new``. ``came_with`` is what the session's
        chain was when the turn began; ``alone``: no other turn of it runs now."""
        held, aside = self.chain(session) or (), self._get(session + _ASIDE)
        alone = alone and held == (came_with or ())
        kind = succession(held, aside, new, alone=alone)
        if kind is Succession.ASIDE:
            return self._set(session, held, new)
        if kind is Succession.BESIDE and common(held, new) < len(held):
            return self._set(session, new, held)
        goes_on = bool(aside) and common(aside, new) == len(aside)
        return self._set(session, new, () if goes_on else aside)

    def fork(self, parent: SessionKey, child: SessionKey, chunks: int | None) -> Change | None:
        """Let ``child`` hold the first ``chunks`` of ``parent``'s chain, all when None; None when
        the parent is not known."""
        chain = self.chain(parent)
        if chain is None:
            return None
        return self._set(child, chain[:chunks], self._get(child + _ASIDE))

    def truncate(self, session: SessionKey, chunks: int) -> Change | None:
        """Cut the session's chain to ``chunks``; None when it is not known."""
        chain = self.chain(session)
        if chain is None:
            return None
        return self._set(session, chain[:chunks], self._get(session + _ASIDE))

    def forget(self, session: SessionKey) -> Forgotten:
        """The session has ended."""
        held = dict.fromkeys((*(self.chain(session) or ()), *self.beside(session)))
        before = {key for key in held if self.is_superseded(key)}
        for name in (session, session + _ASIDE, session + LEFT):
            self._manifests.drop(SessionKey(name))
        shared = [key for key in held if self._manifests.holders(key)]
        gone = held.keys() - set(shared)
        now = [key for key in shared if key not in before and self.is_superseded(key)]
        return Forgotten([key for key in held if key in gone], shared, now)

    def _set(
        self, session: SessionKey, chain: Sequence[ChunkKey], aside: Sequence[ChunkKey]
    ) -> Change:
        """Make the session hold this; what it held and does not now, it has left behind."""
        old_chain, old_aside = self.chain(session) or (), self._get(session + _ASIDE)
        old_left = self._get(session + LEFT)
        kept = {*chain, *aside}
        left = dict.fromkeys(key for key in (*old_left, *old_aside, *old_chain) if key not in kept)
        new = [*chain[common(old_chain, chain) :], *aside[common(old_aside, aside) :]]
        wanted = list(dict.fromkeys(key for key in new if self.is_superseded(key)))
        self._manifests.replace(session, chain)
        self._put(session + _ASIDE, aside)
        self._put(session + LEFT, self._trimmed(left, set(old_left)))
        now = [key for key in (*old_chain, *old_aside) if key in left]
        superseded = dict.fromkeys(key for key in now if not self._manifests.keepers(key))
        lost = sum(key in superseded for key in old_chain)
        return Change(lost, list(superseded), wanted)

    def _trimmed(
        self, left: dict[ChunkKey, None], before: Container[ChunkKey]
    ) -> Sequence[ChunkKey]:
        """What is remembered of ``left``, of which ``before`` was so already."""
        if len(left) <= _MOST_LEFT:
            return list(left)
        own = [key for key in left if self._manifests.holders(key) == (key in before)]
        forgotten = set(own[: max(0, len(own) - _MOST_LEFT)])
        return [key for key in left if key not in forgotten][-_MOST_LEFT_SHARED:]

    def _get(self, name: str) -> tuple[ChunkKey, ...]:
        return self._manifests.get(SessionKey(name)) or ()

    def _put(self, name: str, keys: Sequence[ChunkKey]) -> None:
        if keys:
            self._manifests.replace(SessionKey(name), keys)
        elif self._manifests.get(SessionKey(name)) is not None:
            self._manifests.drop(SessionKey(name))
