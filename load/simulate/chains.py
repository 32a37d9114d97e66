"""Whose prompts begin alike: a radix tree of the sessions' chains.

A session is at the end of a path of segments; sessions with a common beginning share its segments.
What a session leaves behind when its history is rewritten is dropped, unless another is on it, so
the tree is as large as the chains of the sessions in it. Work is per segment and run, not per
block. Blocks are a trace's; a chunk is shared where the last of its blocks is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cache_tiers.types import SessionKey
from load.traces import Runs

LEVELS = 3
"""Tiers that count what they hold of a segment."""


class Segment:
    """The blocks ``start … end`` of one or more chains."""

    __slots__ = ("chain", "children", "end", "held", "parent", "sessions", "start")

    def __init__(self, parent: "Segment | None", start: int, end: int, chain: Runs):
        self.parent = parent
        self.start = start
        self.end = end
        self.chain = chain
        """One that goes through it, from the first block on."""
        self.children: dict[int, Segment] = {}
        """By first block."""
        self.sessions = 0
        """Whose chains go through it."""
        self.held: tuple[dict[int, int], ...] = tuple({} for _ in range(LEVELS))
        """For each tier: how many sessions claim so many leading chunks of it; none claim 0."""

    def path(self) -> "Iterator[Segment]":
        """From this one to the root."""
        segment: Segment | None = self
        while segment is not None:
            yield segment
            segment = segment.parent


@dataclass(slots=True, eq=False)
class Session:
    """A session as the simulation knows it. Sizes in chunks, by tier."""

    key: SessionKey
    scope: str
    chain: Runs = ()
    tip: Segment | None = None
    """Where its chain ends."""
    claimed: list[int] = field(default_factory=lambda: [0] * LEVELS)
    """Leading chunks that have room there."""
    present: list[int] = field(default_factory=lambda: [0] * LEVELS)
    """Those of them that have arrived."""
    locked: bool = False
    """In use: nothing of it is cut."""
    turns: int = 0
    """Begun so far."""
    fetched_from: int | None = None
    """What DRAM has of it from here on was prefetched since its latest turn."""


class Chains:
    """All sessions' chains, and what of them the tiers claim."""

    def __init__(self, chunk_blocks: int) -> None:
        """``chunk_blocks``: blocks a chunk."""
        self._per = chunk_blocks
        self._roots: dict[str, Segment] = {}

    def chunks(self, session: Session) -> int:
        """Of the session's chain."""
        return 0 if session.tip is None else session.tip.end // self._per

    def known(self, session: Session, runs: Runs) -> tuple[int, int]:
        """Of a prompt: the leading chunks that the session's own chain begins with, and those that
        any chain in its scope does."""
        own = common(session.chain, runs)
        depth = own if self._alone(session, own) else self._walk(session.scope, runs)[0]
        return own // self._per, depth // self._per

    def place(self, session: Session, runs: Runs) -> None:
        """The session's chain is this now. It claims nothing behind what it had of it before."""
        tip = session.tip
        own = common(session.chain, runs)
        session.chain = runs
        if tip is not None and self._alone(session, own):
            # The usual case: its own end goes on, perhaps from a little further up.
            tip.chain, tip.end = runs, length(runs)
            return
        depth, segment = self._walk(session.scope, runs)
        if depth < segment.end:
            segment = self._split(segment, depth)
        segment = self._grow(segment, runs)
        for each in segment.path():
            each.sessions += 1
        session.tip = segment
        if tip is not None:
            self._leave(tip)

    def remove(self, session: Session) -> None:
        """The session is forgotten. It claims nothing any more."""
        if session.tip is not None:
            self._leave(session.tip)
            session.tip, session.chain = None, ()
        root = self._roots.get(session.scope)
        if root is not None and not root.sessions:
            del self._roots[session.scope]

    def claim(self, session: Session, level: int, chunks: int) -> int:
        """The session claims so many leading chunks in a tier; returns how many more (below 0:
        fewer) chunks all sessions together claim there now."""
        before = session.claimed[level]
        session.claimed[level] = chunks
        least = before if before < chunks else chunks
        grown = 0
        per = self._per
        segment = session.tip
        while segment is not None and segment.end // per > least:
            first = segment.start // per
            size = segment.end // per - first
            old = min(max(before - first, 0), size)
            new = min(max(chunks - first, 0), size)
            if old != new:
                held = segment.held[level]
                if segment.sessions == 1:
                    grown += new - old
                    held.clear()
                    if new:
                        held[new] = 1
                else:
                    grown -= max(held, default=0)
                    if old:
                        _less(held, old)
                    if new:
                        held[new] = held.get(new, 0) + 1
                    grown += max(held, default=0)
            segment = segment.parent
        return grown

    def others(self, session: Session, level: int) -> int:
        """Leading chunks of the session's chain that other sessions claim in a tier."""
        if session.tip is None:
            return 0
        chunks = 0
        for segment in reversed([each for each in session.tip.path() if each.sessions > 1]):
            first = segment.start // self._per
            chunks = first + self._most(segment, level, session.claimed[level] - first)
            if chunks < segment.end // self._per:
                break
        return chunks

    def shorter(self, session: Session, level: int, keep: int, need: int) -> int:
        """To how many chunks to cut a session's claim, not below ``keep``, to free ``need`` chunks
        or as many as that can. What others claim, too, is not freed by it."""
        claimed = session.claimed[level]
        segment = session.tip
        while segment is not None and claimed > keep:
            first = segment.start // self._per
            own = claimed - first
            if own > 0:
                least = max(0, keep - first)
                others = 0 if segment.sessions == 1 else self._most(segment, level, own)
                free = own - max(least, min(own, others))
                if free >= need:
                    return claimed - need
                need -= free
                claimed = first + least
            segment = segment.parent
        return claimed

    def _most(self, segment: Segment, level: int, own: int) -> int:
        """Leading chunks of a segment that others claim than one who claims ``own``."""
        own = min(own, segment.end // self._per - segment.start // self._per)
        return max((p for p, n in segment.held[level].items() if p != own or n > 1), default=0)

    def _alone(self, session: Session, own: int) -> bool:
        """Whether a prompt that leaves the session's chain after ``own`` blocks does so where
        nobody else is."""
        tip = session.tip
        return tip is not None and tip.sessions == 1 and tip.parent is not None and own > tip.start

    def _walk(self, scope: str, runs: Runs) -> tuple[int, Segment]:
        """As far as a prompt is known: how many blocks, and the segment in which that ends."""
        segment = self._roots.get(scope)
        if segment is None:
            segment = self._roots[scope] = Segment(None, 0, 0, ())
        while True:
            block = _block(runs, segment.end)
            child = None if block is None else segment.children.get(block)
            if child is None:
                return segment.end, segment
            depth = min(common(child.chain, runs), child.end)
            if depth < child.end:
                return depth, child
            segment = child

    def _grow(self, segment: Segment, chain: Runs) -> Segment:
        """The end of a chain that goes through a segment."""
        block = _block(chain, segment.end)
        if block is None:
            return segment
        child = Segment(segment, segment.end, length(chain), chain)
        segment.children[block] = child
        return child

    def _split(self, segment: Segment, depth: int) -> Segment:
        """Cut a segment in two; returns a new one for the first part. Who ends in the segment ends
        in the second part, which is the segment still."""
        upper = Segment(segment.parent, segment.start, depth, segment.chain)
        upper.sessions = segment.sessions
        self._hang(upper)
        segment.start, segment.parent = depth, upper
        self._hang(segment)
        size = depth // self._per - upper.start // self._per
        for above, below in zip(upper.held, segment.held, strict=True):
            counts = list(below.items())
            below.clear()
            for chunks, count in counts:
                if size:
                    first = min(chunks, size)
                    above[first] = above.get(first, 0) + count
                if chunks > size:
                    below[chunks - size] = count
        return upper

    def _hang(self, segment: Segment) -> None:
        """Make a segment its parent's child."""
        block = _block(segment.chain, segment.start)
        if segment.parent is not None and block is not None:
            segment.parent.children[block] = segment

    def _leave(self, tip: Segment) -> None:
        """One session fewer goes as far as here; where nobody is any more, the tree ends."""
        for segment in list(tip.path()):
            segment.sessions -= 1
            if segment.parent is None:
                continue
            if not segment.sessions:
                block = _block(segment.chain, segment.start)
                if block is not None:
                    del segment.parent.children[block]
            elif len(segment.children) == 1:
                (child,) = segment.children.values()
                if child.sessions == segment.sessions:
                    self._merge(segment, child)

    def _merge(self, upper: Segment, lower: Segment) -> None:
        """Undo a split: nobody ends between the two."""
        size = lower.start // self._per - upper.start // self._per
        for above, below in zip(upper.held, lower.held, strict=True):
            whole = above.pop(size, 0) - sum(below.values())
            counts = {chunks + size: count for chunks, count in below.items()}
            below.clear()
            below.update(above)
            below.update(counts)
            if size and whole:
                below[size] = whole
        lower.start, lower.parent = upper.start, upper.parent
        self._hang(lower)


def length(runs: Runs) -> int:
    """Blocks."""
    blocks = 0
    for _, count in runs:
        blocks += count
    return blocks


def common(one: Runs, other: Runs) -> int:
    """Blocks that both begin with."""
    blocks = 0
    for (first, count), (first_too, count_too) in zip(one, other, strict=False):
        if first != first_too:
            return blocks
        if count != count_too:
            return blocks + min(count, count_too)
        blocks += count
    return blocks


def _block(runs: Runs, at: int) -> int | None:
    """The block at a place of a chain; None behind its end."""
    for first, count in runs:
        if at < count:
            return first + at
        at -= count
    return None


def _less(held: dict[int, int], chunks: int) -> None:
    if held[chunks] > 1:
        held[chunks] -= 1
    else:
        del held[chunks]
