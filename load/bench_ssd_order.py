"""How much reuse an SSD keeps that is too small, by what decides which segments go.

Recorded sessions run in a closed loop, each answer taking as long as the next, through the engine's
own store (real segments, stand-ins for chunks) and its own predictions; no engine runs, and no
other tier helps. ``recency`` is told nothing. ``recency, valued`` knows chains, what they cost to
compute and when they were used last, and predicts nothing. ``importance`` is what the engine does.
``knowing`` is the same with the true time of each session's return: what better predictions could
give.
"""

import argparse
import heapq
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cache_tiers.eviction.expectation import Expectation, Price, Stake
from cache_tiers.eviction.noted import Away, Noted, away_of
from cache_tiers.manifest import Manifests
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import TurnEnd
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.store import SsdStore
from cache_tiers.types import ChunkKey, SessionKey
from load.environment import describe
from load.replay_writes import Clock
from load.report import table, write_json
from load.server import REPOSITORY
from load.simulate.costs import ModelCosts
from load.simulate.model import EngineModel, Hardware
from load.simulate.source import ClosedLoop, Visit
from load.traces import Request, Trace, find_traces

ANSWER_S: Final = 10.0
TOLD_EVERY_S: Final = 5.0
"""As the engine does."""
STAND_IN_BYTES: Final = PAGE_BYTES
SHARES: Final = (0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its answer."""

    asked_s: float
    chain: tuple[ChunkKey, ...]
    """The prompt's whole chunks."""
    end: TurnEnd
    returns_s: float
    """When the session's next request comes; ``math.inf`` for never."""

    @property
    def answered_s(self) -> float:
        return self.asked_s + ANSWER_S


def timeline(
    requests: Iterable[Request], chunk_blocks: int, users: int, turns: int, seed: int
) -> list[Turn]:
    """What ``users`` ask in a closed loop, in the order of their answers. It does not depend on
    what is stored. ``chunk_blocks``: blocks a chunk."""
    source = ClosedLoop(requests, users, seed)
    events: list[tuple[float, int, bool, Visit]] = []
    names: dict[tuple[str, int], ChunkKey] = {}
    counts: dict[SessionKey, int] = {}
    done: list[Turn] = []
    pushed = 0

    def push(at: float, answer: bool, visit: Visit) -> None:
        nonlocal pushed
        pushed += 1
        heapq.heappush(events, (at, pushed, answer, visit))

    for at, visit in source.begin():
        push(at, False, visit)
    while events and len(done) < turns:
        now, _, answer, visit = heapq.heappop(events)
        if not answer:
            push(now + ANSWER_S, True, visit)
            continue
        request, session, returns_s = visit.request, visit.session, math.inf
        for at, arrival in source.answered(visit, now):
            push(at, False, arrival)
            if arrival is visit:
                returns_s = at
        counts[session] = counts.get(session, 0) + 1
        end = TurnEnd(
            session=session, awaits=request.awaits, tool=request.tool, turn=counts[session]
        )
        chain = tuple(
            names.setdefault((visit.scope, block), ChunkKey(len(names).to_bytes(8, "big")))
            for block in _last_blocks(request, chunk_blocks)
        )
        done.append(Turn(now - ANSWER_S, chain, end, returns_s))
    return done


def _last_blocks(request: Request, per: int) -> Iterator[int]:
    """Of each chunk of ``per`` blocks: with all before it, it is the only one with this last."""
    for i, (_, block) in enumerate(request.blocks(), 1):
        if i % per == 0:
            yield block


class Knower:
    """Follows a replay, and knows of sessions what an order may."""

    def __init__(self, clock: Clock, price: Price) -> None:
        self.clock = clock
        self.manifests = Manifests.in_memory(clock)
        self._price = price
        self._returns = EmpiricalReturns()
        self._running: set[SessionKey] = set()
        self._returns_s: dict[SessionKey, float] = {}

    def asked(self, turn: Turn) -> None:
        session = turn.end.session
        self._returns.returned(session, self.clock.now)
        self._running.add(session)

    def answered(self, turn: Turn) -> None:
        session = turn.end.session
        self._running.discard(session)
        self._returns.ended(turn.end, self.clock.now)
        self._returns_s[session] = turn.returns_s
        self.manifests.replace(session, turn.chain)

    def predicted(self) -> Expectation:
        """As the engine's ``SsdOutlook``."""
        return self._noted(away_of(self._returns, self.manifests.sessions(), self.clock.now))

    def last_used(self) -> Expectation:
        return self._noted({})

    def known(self) -> Expectation:
        stakes = []
        for stake in self._noted({}).stakes:
            left_s = self._returns_s[stake.session] - self.clock.now
            running = stake.session in self._running
            rate = 1 / max(1.0, 0.0 if running else left_s)
            stakes.append(Stake(stake.session, stake.chain, 0, rate))
        return Expectation(tuple(stakes), self._price, self.clock.now)

    def _noted(self, away: Mapping[SessionKey, Away]) -> Expectation:
        return Noted(
            manifests=self.manifests,
            away=away,
            running=frozenset(self._running),
            above={},
            price=self._price,
            now=self.clock.now,
        ).expectation()


Expecting = Callable[[Knower], Callable[[], Expectation]]
ORDERS: Final[dict[str, Expecting | None]] = {
    "recency": None,
    "recency, valued": lambda knower: knower.last_used,
    "importance": lambda knower: knower.predicted,
    "knowing": lambda knower: knower.known,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One order on one load. Shares are of what an SSD without a limit gives."""

    users: int
    ssd: float
    """Of all KV of the load."""
    order: str
    reused: float
    """Chunks found."""
    saved: float
    """What they cost to compute."""


def replay(
    turns: Sequence[Turn],
    store: SsdStore | None,
    order: Expecting | None,
    price: Price,
    clock: Clock,
) -> tuple[int, float]:
    """Chunks found by all turns, and the seconds that they cost to compute; None is a store without
    a limit."""
    knower = Knower(clock, price)
    expecting = order(knower) if order is not None else None
    everything: set[ChunkKey] = set()
    content = memoryview(bytearray(STAND_IN_BYTES))
    found, saved_s, told_at = 0, 0.0, -math.inf
    asks = sorted(range(len(turns)), key=lambda i: turns[i].asked_s)
    events = [(turns[i].asked_s, 0, i) for i in asks]
    events += [(turn.answered_s, 1, i) for i, turn in enumerate(turns)]
    for at, answer, i in sorted(events):
        turn = turns[i]
        chain, session = turn.chain, turn.end.session
        clock.now = at
        if store is None:
            if answer:
                everything.update(chain)
                continue
            there = next((n for n, key in enumerate(chain) if key not in everything), len(chain))
        elif answer:
            knower.answered(turn)
            store.put(chain, [content] * len(chain), session)
            continue
        else:
            knower.asked(turn)
            there = next((n for n, key in enumerate(chain) if not store.contains(key)), len(chain))
            # All present: it is what a read does to the store's idea of use.
            store.put(chain[:there], [content] * there, session)
            if expecting is not None and at >= told_at + TOLD_EVERY_S:
                told_at = at
                store.expect(_frozen(expecting))
        found += there
        saved_s += price.upto(there)
    return found, saved_s


def _frozen(expecting: Callable[[], Expectation]) -> Callable[[], Expectation]:
    """A new callable each time: it is told anew."""
    return lambda: expecting()


def measure(
    trace: Trace, users: int, turns: int, chunk_tokens: int, segment_chunks: int, seed: int
) -> Iterator[Row]:
    """Every order with every size of SSD."""
    hardware = Hardware(chunk_tokens=chunk_tokens)
    price = Price.of(ModelCosts(EngineModel(), hardware), chunk_tokens)
    load = timeline(trace, chunk_tokens // trace.block_tokens, users, turns, seed)
    everything = len({key for turn in load for key in turn.chain})
    most, most_saved_s = replay(load, None, None, price, Clock())
    for share in SHARES:
        for name, order in ORDERS.items():
            with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
                clock = Clock()
                config = SsdConfig(
                    root=Path(folder),
                    fingerprint="bench",
                    chunk_bytes=STAND_IN_BYTES,
                    bytes_limit=int(share * everything * STAND_IN_BYTES),
                    segment_bytes=segment_chunks * STAND_IN_BYTES,
                )
                store = SsdStore.open(config, clock)
                try:
                    found, saved_s = replay(load, store, order, price, clock)
                finally:
                    store.close()
            yield Row(users, share, name, found / most, saved_s / most_saved_s)


def draw(rows: Sequence[Row]) -> str:
    """An order a line. Pure."""
    return table(
        ["users", "SSD", "order", "reused", "computing saved"],
        [
            [str(r.users), f"{r.ssd:.0%}", r.order, f"{r.reused:.1%}", f"{r.saved:.1%}"]
            for r in rows
        ],
    )


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_ssd_order", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--turns", type=int, default=4_000, help="requests (4,000)")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens a chunk (512)")
    parser.add_argument("--segment-chunks", type=int, default=24, help="chunks a segment (24)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/ssd_order.json")
    options = parser.parse_args()
    environment = describe()
    trace = find_traces(os.environ, REPOSITORY).get("claude_code")
    if trace is None:
        parser.error("no trace claude_code found: VALET_TRACES names its folder")
    rows: list[Row] = []
    for users in options.users:
        for row in measure(
            trace, users, options.turns, options.chunk_tokens, options.segment_chunks, options.seed
        ):
            rows.append(row)
            print(draw([row]), flush=True)
    print(draw(rows))
    write_json(
        options.out,
        {
            "environment": environment,
            "options": {k: str(v) for k, v in vars(options).items()},
            "rows": [asdict(row) for row in rows],
        },
    )
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
