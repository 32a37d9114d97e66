"""A trace's turns in time order through an admission policy and a write budget into a chunk store.

Every turn reads the beginning of its prompt that the store (or DRAM before it) holds, and computes
the rest. Then its policy is asked what of the rest to write. What is counted are chunks: those of
tiny stand-in bytes behave as those of real size would, and the budget is in proportion.
"""

import hashlib
import random
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.endurance.admission import Admission, Chain
from cache_tiers.endurance.budget import DAY_S, WriteBudget
from cache_tiers.store import ChunkStore, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from load.traces import Request, Trace


@dataclass(frozen=True, slots=True)
class Turn:
    """One request, as a store sees it."""

    at_s: float
    session: SessionKey
    chain: tuple[ChunkKey, ...]
    """The prompt's whole chunks."""
    kept: int
    """Leading chunks that the session's turn before had, too."""
    shared: int
    """Leading chunks that another session has had, too."""


@dataclass(frozen=True, slots=True)
class Load:
    """Turns in time order."""

    turns: tuple[Turn, ...]
    chunk_tokens: int
    reads: Counter[ChunkKey]
    """How often each chunk comes again after it first came: at most so often it is read back."""

    @property
    def demanded(self) -> int:
        """Different chunks."""
        return len(self.reads)

    @property
    def days(self) -> float:
        """From the first turn to the last."""
        return (self.turns[-1].at_s - self.turns[0].at_s) / DAY_S if self.turns else 0.0

    def bytes_per_day(self, share: float, chunk_bytes: int) -> int:
        """A budget that grants ``share`` of the demand over the whole load, the full bucket that
        it begins with included."""
        return max(1, int(share * self.demanded * chunk_bytes / (1 + self.days)))

    def beginning(self, turns: int) -> "Load":
        """The first so many turns of it."""
        return _load(self.turns[:turns], self.chunk_tokens)


def make_load(trace: Trace, half: int, days: float, chunk_tokens: int, least_tokens: int) -> Load:
    """One half (0 or 1) of a trace's sessions, those that could share a prompt together, without
    prompts of fewer than ``least_tokens``.

    Sessions without a common clock begin at times drawn by their name, evenly over ``days``; a
    trace with one is stretched to last so long. Raises ValueError unless a chunk is whole blocks.
    """
    if chunk_tokens % trace.block_tokens:
        raise ValueError(f"a chunk is a multiple of {trace.block_tokens} tokens")
    requests = [r for r in trace if _hash(_family(r))[0] % 2 == half]
    last = max((r.at_s for r in requests), default=0.0)

    def placed(request: Request) -> float:
        if trace.common_clock:
            return request.at_s * days * DAY_S / max(1.0, last)
        drawn = int.from_bytes(_hash(_family(request))[1:5], "big") / 2**32
        return request.at_s + drawn * days * DAY_S

    kept = sorted(
        ((placed(r), r) for r in requests if r.input_tokens >= least_tokens),
        key=lambda pair: pair[0],
    )
    chains = _Chains(chunk_tokens // trace.block_tokens)
    return _load(tuple(chains.turn(at_s, request) for at_s, request in kept), chunk_tokens)


def _load(turns: tuple[Turn, ...], chunk_tokens: int) -> Load:
    reads = Counter(key for turn in turns for key in turn.chain)
    reads.subtract(list(reads))
    return Load(turns, chunk_tokens, reads)


class Clock:
    """Stands where the replay is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Policy(Protocol):
    """What to write when a turn has ended."""

    def write(self, turn: Turn, stored: int) -> int:
        """How many of the chunks behind the ``stored`` first ones. Asked once a turn, in order."""
        ...


class FirstCome:
    """All, until the budget is spent."""

    def write(self, turn: Turn, stored: int) -> int:
        return len(turn.chain) - stored


class AtRandom:
    """A share of the sessions, drawn by name: all of these, nothing of the others."""

    def __init__(self, share: float) -> None:
        self._share = share

    def write(self, turn: Turn, stored: int) -> int:
        drawn = random.Random(turn.session).random()
        return len(turn.chain) - stored if drawn < self._share else 0


class Foresight:
    """Knows how often each chunk will still be read: writes those that the best choice would."""

    def __init__(self, load: Load, share: float) -> None:
        self._left = Counter(load.reads)
        ranked = sorted(load.reads.values(), reverse=True)
        self._least = max(1, ranked[min(len(ranked) - 1, int(share * len(ranked)))])
        self._seen: set[ChunkKey] = set()

    def write(self, turn: Turn, stored: int) -> int:
        self._left.subtract(self._seen.intersection(turn.chain))
        self._seen.update(turn.chain)
        return _leading(turn.chain[stored:], lambda key: self._left[key] >= self._least)


class Admitted:
    """What the engine's own admission says."""

    def __init__(self, admission: Admission, budget: WriteBudget | None) -> None:
        self._admission = admission
        self._budget = budget

    def write(self, turn: Turn, stored: int) -> int:
        chain = Chain(
            session=turn.session,
            chunks=len(turn.chain),
            kept=turn.kept,
            stored=stored,
            shared=turn.shared,
        )
        return self._admission.turn_ended(chain, self._budget).write


def best_possible(load: Load, share: float) -> float:
    """No policy whatsoever can have more of the reuse than this, 0 … 1: the chunks that are read
    most, whenever the budget would have paid for them."""
    ranked = sorted(load.reads.values(), reverse=True)
    return sum(ranked[: int(share * len(ranked))]) / max(1, sum(ranked))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a load. Chunks."""

    admitted: int
    """Different ones that the policy wanted and the budget paid for."""
    from_store: int
    """Read back by later turns."""
    from_dram: int
    cost_saved: float
    """Of computing all that was read, in the unit of the cost given."""

    @property
    def reused(self) -> int:
        return self.from_store + self.from_dram


def replay(
    load: Load,
    policy: Policy,
    store: ChunkStore,
    clock: Clock,
    budget: WriteBudget | None = None,
    *,
    dram_chunks: int = 0,
    cost: Callable[[int, int], float] = lambda start, end: end - start,
) -> Replayed:
    """All of a load into an empty store. ``budget`` goes by ``clock``, which the replay moves.
    DRAM keeps the ``dram_chunks`` that were used last, a chain's end going before its beginning.

    Raises OSError when the store refuses a chunk: it is too small for the load.
    """
    content = memoryview(bytearray(store.chunk_bytes))
    dram: OrderedDict[ChunkKey, None] = OrderedDict()
    admitted: set[ChunkKey] = set()
    from_store = from_dram = 0
    saved = 0.0
    for turn in load.turns:
        clock.now = turn.at_s
        chain = turn.chain
        stored = _leading(chain, store.contains)
        reused = stored
        if dram_chunks:
            reused = _leading(chain, lambda key: key in dram or store.contains(key))
            from_dram += sum(key in dram for key in chain[:reused])
            _use(dram, chain, dram_chunks)
        from_store += reused
        saved += cost(0, reused * load.chunk_tokens)
        wanted = chain[stored : stored + policy.write(turn, stored)]
        if budget is not None:
            wanted = wanted[: budget.level // store.chunk_bytes]
            budget.take(len(wanted) * store.chunk_bytes)
        if wanted:
            outcomes = store.put(wanted, [content] * len(wanted), turn.session)
            if WriteOutcome.REFUSED in outcomes:
                raise OSError("the store has no room for the load")
            admitted.update(wanted)
    return Replayed(len(admitted), from_store - from_dram, from_dram, saved)


def _use(dram: "OrderedDict[ChunkKey, None]", chain: Sequence[ChunkKey], most: int) -> None:
    for key in reversed(chain):
        dram[key] = None
        dram.move_to_end(key)
    while len(dram) > most:
        dram.popitem(last=False)


def _leading(chain: Sequence[ChunkKey], held: Callable[[ChunkKey], bool]) -> int:
    return next((i for i, key in enumerate(chain) if not held(key)), len(chain))


class _Chains:
    """Names chunks as an engine would: equal after equal beginnings."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._numbers: dict[tuple[object, ...], ChunkKey] = {}
        self._latest: dict[SessionKey, tuple[ChunkKey, ...]] = {}
        self._owners: dict[ChunkKey, SessionKey] = {}
        self._shared: set[ChunkKey] = set()

    def turn(self, at_s: float, request: Request) -> Turn:
        session = SessionKey(f"trace/{request.session}")
        chain = self._chain(request)
        before = self._latest.get(session, ())
        self._latest[session] = chain
        self._shared.update(k for k in chain if self._owners.setdefault(k, session) != session)
        shared = _leading(chain, self._shared.__contains__)
        return Turn(at_s, session, chain, _common(before, chain), shared)

    def _chain(self, request: Request) -> tuple[ChunkKey, ...]:
        blocks = list(request.blocks())
        before: object = None
        chain = []
        for start in range(0, len(blocks) - self._blocks + 1, self._blocks):
            name = (before, *blocks[start : start + self._blocks])
            key = self._numbers.get(name)
            if key is None:
                key = ChunkKey(len(self._numbers).to_bytes(8, "big"))
                self._numbers[name] = key
            chain.append(key)
            before = key
        return tuple(chain)


def _common(one: Sequence[ChunkKey], other: Sequence[ChunkKey]) -> int:
    """Leading chunks of both: a chunk in common means that all before it are."""
    return bisect_left(range(min(len(one), len(other))), True, key=lambda i: one[i] != other[i])


def _family(request: Request) -> str:
    """Requests that may share blocks have the same."""
    return request.scope or str(next(request.blocks(), request.session))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
