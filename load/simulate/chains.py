"""Whose prompts begin alike: a radix tree of the sessions' chains.

A session is at the end of a path of segments; sessions with a common beginning share its segments.
What a session leaves behind when its history is rewritten is dropped, unless another is on it, so
the tree is as large as the chains of the sessions in it. Work is per segment and run, not per
block. Blocks are a trace's; a chunk is shared where the last of its blocks is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cache_tiers.types import SessionKey
from load.traces import Runs

LEVELS = 3
"""Tiers that count what they hold of a segment."""


class Segment:
    """The blocks ``start … end`` of one or more chains."""

    __slots__ = ("children", "end", "held", "parent", "runs", "sessions", "start")

    def __init__(self, parent: "Segment | None", start: int, runs: Iterable[tuple[int, int]]):
        self.parent = parent
        self.start = start
        self.runs = list(runs)
        self.end = start + _length(self.runs)
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
    tip: Segment | None = None
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
        root = self._roots.get(session.scope)
        if root is None:
            return 0, 0
        depth, stop = _walk(root, runs)
        own = 0
        if session.tip is stop:
            own = depth
        elif session.tip is not None:
            path = set(session.tip.path())
            for segment in stop.path():
                if segment in path:
                    own = min(depth, segment.end)
                    break
        return own // self._per, depth // self._per

    def place(self, session: Session, runs: Runs) -> None:
        """The session's chain is this now. It claims nothing behind what it had of it before."""
        root = self._roots.get(session.scope)
        if root is None:
            root = self._roots[session.scope] = Segment(None, 0, ())
        depth, segment = _walk(root, runs)
        tip = session.tip
        if segment is tip and segment.sessions == 1 and segment.parent is not None:
            # The usual case: its own end goes on, perhaps from a little further up.
            segment.runs = [*_head(segment.runs, depth - segment.start), *_tail(runs, depth)]
            segment.end = segment.start + _length(segment.runs)
            return
        if depth < segment.end:
            segment = self._split(segment, depth)
        rest = _tail(runs, depth)
        if rest:
            segment = self._grow(segment, rest)
        for each in segment.path():
            each.sessions += 1
        session.tip = segment
        if tip is not None:
            self._leave(tip)

    def extend(self, session: Session, runs: Runs) -> None:
        """Blocks behind the session's chain that nobody else has."""
        tip = session.tip
        if tip is None or not runs:
            return
        if tip.sessions == 1 and tip.parent is not None:
            tip.runs += runs
            tip.end += _length(runs)
        else:
            session.tip = self._grow(tip, runs)
            session.tip.sessions = 1

    def remove(self, session: Session) -> None:
        """The session is forgotten. It claims nothing any more."""
        if session.tip is not None:
            self._leave(session.tip)
            session.tip = None
        root = self._roots.get(session.scope)
        if root is not None and not root.sessions:
            del self._roots[session.scope]

    def claim(self, session: Session, level: int, chunks: int) -> int:
        """The session claims so many leading chunks in a tier; returns how many more (below 0:
        fewer) chunks all sessions together claim there now."""
        before = session.claimed[level]
        session.claimed[level] = chunks
        least = min(before, chunks)
        grown = 0
        per = self._per
        segment = session.tip
        while segment is not None and segment.end // per > least:
            first = segment.start // per
            length = segment.end // per - first
            old = min(max(before - first, 0), length)
            new = min(max(chunks - first, 0), length)
            if old != new:
                held = segment.held[level]
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
        per = self._per
        chunks = 0
        for segment in reversed([each for each in session.tip.path() if each.sessions > 1]):
            first = segment.start // per
            most = self._most(segment, level, session.claimed[level] - first)
            chunks = first + most
            if chunks < segment.end // per:
                break
        return chunks

    def shorter(self, session: Session, level: int, keep: int, need: int) -> int:
        """To how many chunks to cut a session's claim, not below ``keep``, to free ``need`` chunks
        or as many as that can. What others claim, too, is not freed by it."""
        claimed = session.claimed[level]
        per = self._per
        segment = session.tip
        while segment is not None and claimed > keep:
            first = segment.start // per
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

    def _grow(self, segment: Segment, runs: Runs) -> Segment:
        child = Segment(segment, segment.end, runs)
        segment.children[runs[0][0]] = child
        return child

    def _split(self, segment: Segment, depth: int) -> Segment:
        """Cut a segment in two; returns a new one for the first part. Who ends in the segment ends
        in the second part, which is the segment still."""
        at = depth - segment.start
        upper = Segment(segment.parent, segment.start, _head(segment.runs, at))
        upper.sessions = segment.sessions
        if segment.parent is not None:
            segment.parent.children[upper.runs[0][0]] = upper
        segment.runs = list(_tail(segment.runs, at))
        segment.start, segment.parent = depth, upper
        upper.children[segment.runs[0][0]] = segment
        length = depth // self._per - upper.start // self._per
        for above, below in zip(upper.held, segment.held, strict=True):
            counts = list(below.items())
            below.clear()
            for chunks, count in counts:
                if length:
                    first = min(chunks, length)
                    above[first] = above.get(first, 0) + count
                if chunks > length:
                    below[chunks - length] = count
        return upper

    def _leave(self, tip: Segment) -> None:
        """One session fewer goes as far as here; what nobody is on any more goes."""
        for segment in list(tip.path()):
            segment.sessions -= 1
            if segment.parent is None:
                continue
            if not segment.sessions:
                del segment.parent.children[segment.runs[0][0]]
            elif len(segment.children) == 1:
                (child,) = segment.children.values()
                if child.sessions == segment.sessions:
                    self._merge(segment, child)

    def _merge(self, upper: Segment, lower: Segment) -> None:
        """Undo a split: nobody ends between the two."""
        length = lower.start // self._per - upper.start // self._per
        for above, below in zip(upper.held, lower.held, strict=True):
            whole = above.pop(length, 0) - sum(below.values())
            counts = {chunks + length: count for chunks, count in below.items()}
            below.clear()
            below.update(above)
            below.update(counts)
            if length and whole:
                below[length] = whole
        lower.runs = [*upper.runs, *lower.runs]
        lower.start, lower.parent = upper.start, upper.parent
        if upper.parent is not None:
            upper.parent.children[lower.runs[0][0]] = lower


def _walk(root: Segment, runs: Runs) -> tuple[int, Segment]:
    """As far as a prompt is known: how many blocks, and the segment in which that ends."""
    segment = root
    depth = 0
    at = offset = 0
    while at < len(runs):
        first, count = runs[at]
        if not count:
            at += 1
            continue
        child = segment.children.get(first + offset)
        if child is None:
            break
        segment = child
        for start, length in child.runs:
            done = 0
            while done < length:
                if at == len(runs) or runs[at][0] + offset != start + done:
                    return depth, child
                step = min(length - done, runs[at][1] - offset)
                done += step
                depth += step
                offset += step
                if offset == runs[at][1]:
                    at, offset = at + 1, 0
    return depth, segment


def _length(runs: Iterable[tuple[int, int]]) -> int:
    return sum(count for _, count in runs)


def _head(runs: Sequence[tuple[int, int]], blocks: int) -> Runs:
    """The first so many blocks."""
    kept = []
    for first, count in runs:
        if blocks <= 0:
            break
        kept.append((first, min(count, blocks)))
        blocks -= count
    return tuple(kept)


def _tail(runs: Sequence[tuple[int, int]], blocks: int) -> Runs:
    """All behind the first so many blocks."""
    rest = []
    for first, count in runs:
        skipped = min(blocks, count)
        blocks -= skipped
        if count > skipped:
            rest.append((first + skipped, count - skipped))
    return tuple(rest)


def _less(held: dict[int, int], chunks: int) -> None:
    if held[chunks] > 1:
        held[chunks] -= 1
    else:
        del held[chunks]
