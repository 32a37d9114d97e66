"""The question a store asks when it needs room: which of these goes first?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can be evicted whole: a segment, or another fingerprint's folder."""

    id: int
    """The asker's name for it; means nothing to a policy."""
    bytes: int
    """Room gained by evicting it."""
    last_used: float
    """Seconds of the store's clock at the latest read or write of any of its chunks."""
    chunks: int
    """Chunks lost by evicting it."""
    live_bytes: int = 0
    """What those chunks take; the rest of ``bytes`` is of no use to anybody."""
    superseded_bytes: int = 0
    """Of ``live_bytes``, what no history needs any more, or can use."""
    pinned_bytes: int = 0
    """Of ``live_bytes``, what somebody has a lease on."""
    worth: float = math.inf
    """Seconds saved a second by having it; infinite while that is not known."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to evict."""

    candidate: Candidate
    copy_forward: bool
    """Whether chunks of it are worth writing again elsewhere first: those that are pinned or, where
    none is, those that are not superseded."""


class EvictionPolicy(Protocol):
    """Pure: the same candidates give the same answer, on any thread."""

    def choose(self, candidates: Iterable[Candidate]) -> Choice | None:
        """The one to evict first; None only when there is no candidate."""
        ...
